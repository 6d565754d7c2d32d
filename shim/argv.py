"""What the shim needs to know of runc's command line: scanned, never interpreted.

runc (and every runtime that takes its command line) is called as

    runc [global options] VERB [options and arguments]

The scan knows which options take a value, so a value that looks like a verb or an option
confuses nothing. An option that it does not know makes the whole line unknown: the verb is then
empty and the line goes to the runtime below as it is. Options are those of runc 1.1 to 1.5
(``main.go``, ``create.go``, ``delete.go``), with Go's spellings: one dash or two, ``--x v`` or
``--x=v``, and ``--`` as the end of options.
"""

from __future__ import annotations

_GLOBAL_VALUES = frozenset({"criu", "log", "log-format", "root", "rootless"})
_GLOBAL_FLAGS = frozenset({"debug", "systemd-cgroup"})

_VALUES = {
    "create": frozenset(
        {"b", "bundle", "console-socket", "pid-file", "pidfd-socket", "preserve-fds"}
    ),
    "delete": frozenset[str](),
    "start": frozenset[str](),
}
_FLAGS = {
    "create": frozenset({"no-new-keyring", "no-pivot"}),
    "delete": frozenset({"f", "force"}),
    "start": frozenset[str](),
}


class Command:
    """A scanned command line. ``verb`` is empty when the line is not one the shim looks into."""

    __slots__ = ("global_options", "id", "log", "log_format", "options", "root", "verb")

    def __init__(self) -> None:
        self.verb = ""
        """``create``, ``delete``, ``start``, or empty."""
        self.id = ""
        """The container id."""
        self.root = "/run/runc"
        """``--root``: where the runtime keeps its state; runc's default for root."""
        self.log = ""
        """``--log``: the file for errors; empty means standard error."""
        self.log_format = "text"
        """``--log-format``."""
        self.global_options: list[str] = []
        """The global options as they were, without those of logging."""
        self.options: dict[str, str] = {}
        """The verb's options by long name; a flag has the value ``true``."""


def scan(arguments: list[str]) -> Command:
    """Scan runc's arguments (without the program's name). Never fails."""
    command = Command()
    position = 0
    while position < len(arguments):
        name, value = _split(arguments[position])
        if not name:
            break
        taken = 1
        if name in _GLOBAL_VALUES:
            if value is None:
                if position + 1 >= len(arguments):
                    return command
                value, taken = arguments[position + 1], 2
            _set_global(command, name, value)
        elif name not in _GLOBAL_FLAGS:
            return command
        if name not in ("log", "log-format"):
            command.global_options += arguments[position : position + taken]
        position += taken
    if position < len(arguments) and arguments[position] in _VALUES:
        _scan_verb(command, arguments[position], arguments[position + 1 :])
    return command


def _set_global(command: Command, name: str, value: str) -> None:
    if name == "root":
        command.root = value
    elif name == "log":
        command.log = value
    elif name == "log-format":
        command.log_format = value


def _scan_verb(command: Command, verb: str, arguments: list[str]) -> None:
    """Fill in verb, options and id; leave the command alone when anything is not understood."""
    options: dict[str, str] = {}
    ids: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            ids += arguments[position:]
            break
        name, value = _split(argument)
        if not name:
            ids.append(argument)
        elif name in _VALUES[verb]:
            if value is None:
                if position >= len(arguments):
                    return
                value = arguments[position]
                position += 1
            options["bundle" if name == "b" else name] = value
        elif name in _FLAGS[verb]:
            options["force" if name == "f" else name] = "true" if value is None else value
        else:
            return
    if len(ids) == 1 and _is_id(ids[0]):
        command.verb, command.options, command.id = verb, options, ids[0]


def _is_id(text: str) -> bool:
    """Whether runc would take this for a container id (it becomes part of a path)."""
    return bool(text) and "/" not in text and "\0" not in text and text not in (".", "..")


def _split(argument: str) -> tuple[str, str | None]:
    """An option's name and the value after ``=``; an empty name when it is no option."""
    if len(argument) < 2 or argument[0] != "-" or argument == "--":
        return "", None
    name, equals, value = argument[2 if argument.startswith("--") else 1 :].partition("=")
    return name, value if equals else None
