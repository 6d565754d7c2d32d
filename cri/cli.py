"""The frame of the ``podthaw`` command line: options for all commands, dispatch, errors.

A command is a module of :mod:`cri.commands` with ``add(subparsers)``, which declares its options
and sets ``func``, a function from the parsed arguments to the exit status. Only the module of the
command that runs is imported: ``podthaw --version`` loads no gRPC and no YAML.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cri.output import note, printable
from cri.version import VERSION
from shim.errors import PodthawError

DEFAULT_CONFIG = Path("/etc/containerd/config.toml")
SETTINGS_OF_1_7 = Path("/etc/podthaw/containerd.toml")
"""With containerd 1.7, whose own configuration takes no table of ours (deploy/dropin.py)."""
CONFIG_VARIABLE = "PODTHAW_CONFIG"

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Command:
    """A line of the table of commands."""

    module: str
    help: str
    """What it does, in the list of commands."""
    aliases: tuple[str, ...] = ()


COMMANDS: dict[str, Command] = {
    "capture": Command("cri.commands.capture", "take a snapshot of a running container"),
    "list": Command("cri.commands.list", "list snapshots"),
    "inspect": Command("cri.commands.inspect", "show all that is known of a snapshot"),
    "status": Command("cri.commands.status", "what became of the containers that opted in"),
    "trace": Command("cri.commands.trace", "show where the time of a container's start went"),
    "tag": Command("cri.commands.tag", "give a snapshot one more name"),
    "pin": Command("cri.commands.pin", "keep a snapshot from being removed"),
    "unpin": Command("cri.commands.unpin", "let a pinned snapshot be removed again"),
    "remove": Command("cri.commands.remove", "remove names and snapshots", ("rm",)),
    "gc": Command("cri.commands.gc", "remove what nobody uses or what exceeds the limits"),
    "verify": Command("cri.commands.verify", "read a whole snapshot and check every byte"),
    "unquarantine": Command(
        "cri.commands.unquarantine", "let this node try a snapshot again that broke on it"
    ),
    "config": Command("cri.commands.config", "check and show the node's settings"),
    "proxy": Command("cri.commands.proxy", "run the node daemon, between kubelet and containerd"),
}
"""Every command, in the order of the help text."""


class Parser(argparse.ArgumentParser):
    """argparse's parser with errors that name the program and where help is."""

    def error(self, message: str) -> NoReturn:
        """Usage error: what is wrong, the usage, where help is; exit status 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"podthaw: {printable(message)}; see `{self.prog} --help`\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        sys.stdout.write(f"podthaw {VERSION}\n")
        parser.exit(0)


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen command (or alias) gets its options, the others their line."""
    parser = Parser(
        prog="podthaw",
        description="Start Kubernetes containers from snapshots: see what this node has, and "
        "manage it.",
        epilog="REF is NAMESPACE/NAME, a digest or its first digits (6 or more), or NAME together "
        "with -n.\nEach command has its own --help with an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=None,
        help=f"containerd's configuration file, which holds Podthaw's settings too "
        f"(default: ${CONFIG_VARIABLE}, or {SETTINGS_OF_1_7} if it is there, or {DEFAULT_CONFIG})",
    )
    parser.add_argument(
        "-D", "--debug", action="store_true", help="on an error show where it comes from"
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", parser_class=Parser
    )
    for name, command in COMMANDS.items():
        if chosen == name or chosen in command.aliases:
            importlib.import_module(command.module).add(commands)
        else:
            commands.add_parser(name, aliases=list(command.aliases), help=command.help)
    return parser


def _words() -> list[str]:
    return [word for name, command in COMMANDS.items() for word in (name, *command.aliases)]


def chosen_command(arguments: list[str]) -> str | None:
    """The first argument that is neither an option of the frame nor such an option's value."""
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config":
            next(rest, None)
        elif not argument.startswith("-"):
            return argument
    return None


def config_path(args: argparse.Namespace) -> Path:
    """The configuration file asked for: option, environment, default."""
    if args.config is not None:
        return Path(args.config)
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return SETTINGS_OF_1_7 if SETTINGS_OF_1_7.exists() else DEFAULT_CONFIG


def run(arguments: list[str]) -> int:
    """Parse and run; every error becomes a line on standard error and an exit status."""
    debug = "-D" in arguments or "--debug" in arguments
    _open_streams()
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`podthaw list | head`); nothing more can be said there.
        _discard_output()
        return 1
    except PodthawError as error:
        note(f"podthaw: {error}")
        if error.detail:
            sys.stderr.write("".join(f"  {printable(line)}\n" for line in error.detail.split("\n")))
        if debug:
            raise
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            # Files say their name: this was standard output.
            _discard_output()
            note(f"podthaw: the output cannot be written: {error.strerror}")
            return 1
        if debug:
            raise
        note(
            f"podthaw: unexpected {type(error).__name__}: {str(error) or 'no text'}; "
            "`podthaw -D …` shows where it comes from"
        )
        return 1


def _run(arguments: list[str]) -> int:
    chosen = chosen_command(arguments)
    parser = build_parser(chosen)
    if chosen is not None and chosen not in _words():
        near = difflib.get_close_matches(chosen, _words(), 1)
        hint = f", did you mean {near[0]}?" if near else ""
        parser.error(f"there is no command {chosen!r}{hint}")
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    status: int = args.func(args)
    sys.stdout.flush()
    return status


def _discard_output() -> None:
    """What is still to be written goes nowhere, so that the interpreter's end does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Give each standard stream that was closed (``>&-``) the null device.

    A file that is opened later must not get its number and be written to by mistake.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
