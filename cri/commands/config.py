"""``podthaw config check`` and ``podthaw config show``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cri import output
from cri.cli import config_path
from cri.commands.common import Subparsers, new_command
from cri.config import Settings, effective, load_settings


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "config",
        "Podthaw's settings: the table dev.podthaw.v1 of containerd's configuration.\n"
        "check reads a file and what it imports and says everything that is wrong with it; show\n"
        "prints the settings that count, defaults included.",
        "podthaw config check /etc/containerd/conf.d/50-podthaw.toml\npodthaw config show -o json",
    )
    actions = parser.add_subparsers(
        title="actions", metavar="ACTION", dest="action", required=True, parser_class=type(parser)
    )
    check = actions.add_parser("check", help="say what is wrong with a file", allow_abbrev=False)
    check.add_argument(
        "file", metavar="FILE", type=Path, nargs="?", help="default: the configuration in use"
    )
    check.set_defaults(func=run_check)
    show = actions.add_parser("show", help="print the settings that count", allow_abbrev=False)
    output.add_document_option(show)
    show.set_defaults(func=run_show)


def run_check(args: argparse.Namespace) -> int:
    """Load; whatever is wrong ends as an error of the command."""
    settings = load_settings(args.file or config_path(args))
    for warning in warnings(settings):
        output.note(f"podthaw: {warning}")
    output.say(f"{args.file or config_path(args)}: good")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print every key with the value that counts."""
    settings = load_settings(config_path(args))
    value = {**effective(settings), "files": [str(path) for path in settings.files]}
    sys.stdout.write(output.document(value, args.output))
    return 0


def warnings(settings: Settings) -> list[str]:
    """What is allowed but will not do what is meant."""
    found = []
    for handler in settings.handlers.values():
        runtime = settings.runtimes.get(handler)
        if runtime is None:
            found.append(f'containerd has no runtime "{handler}" in this configuration')
        elif "podthaw.dev/*" not in runtime.container_annotations:
            found.append(
                f'runtime "{handler}": container_annotations lacks "podthaw.dev/*", so no plan '
                "can reach it"
            )
    return found
