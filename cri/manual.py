"""``docs/cli.md``, written from the parsers: ``python -m cri.manual > docs/cli.md``.

Not from argparse's help texts, whose form differs between Python's versions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from cri.cli import COMMANDS, build_parser

_HEAD = """\
# The `podthaw` command

<!-- Written by `python -m cri.manual`: change the parsers, not this page. -->

"""


def markdown() -> str:
    """The whole page."""
    top = build_parser(None)
    parts = [_HEAD, *_text(top.description), *_options(top), *_text(top.epilog)]
    parts += [
        "Exit status: 0 good, 1 the command failed (one sentence on standard error says why), ",
        "2 wrong usage, 130 Ctrl-C.\n\n",
        "| command | what it does |\n|---|---|\n",
        *(f"| [`{name}`](#podthaw-{name}) | {one.help} |\n" for name, one in COMMANDS.items()),
    ]
    for name, command in COMMANDS.items():
        parts += _command(_subparsers(build_parser(name))[name], command.aliases)
    return "".join(parts)


def _command(parser: argparse.ArgumentParser, aliases: tuple[str, ...]) -> Iterator[str]:
    yield f"\n## {parser.prog}\n\n"
    yield f"    {_usage(parser)}\n\n"
    yield from _text(parser.description)
    if aliases:
        yield f"Short: {', '.join(f'`{alias}`' for alias in aliases)}.\n\n"
    yield from _options(parser)
    for one in _subparsers(parser).values():
        yield f"`{_usage(one)}`: {_help_of(parser, one)}.\n\n"
        yield from _options(one)
    head, _, example = (parser.epilog or "").partition("\n")
    if example:
        yield f"{head.capitalize()}\n\n"
        yield "".join(f"    {line.strip()}\n" for line in example.splitlines())


def _usage(parser: argparse.ArgumentParser) -> str:
    words = [parser.prog]
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - no other way to ask
            words.append(str(action.metavar))
            continue
        name = _invocation(action).split(", ")[0] if action.option_strings else _value(action)
        if action.nargs == "+":
            name = f"{name} [{name} …]"
        elif not action.required and not (name.startswith("[") and name.endswith("]")):
            name = f"[{name}]"
        words.append(name)
    return " ".join(words)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = [
        f"| `{_invocation(action) or _value(action)}` | {action.help} |\n"
        for action in _actions(parser)
        if not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    ]
    if rows:
        yield "| argument | meaning |\n|---|---|\n"
        yield "".join(rows)
        yield "\n"


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All that are shown, but ``--help``; what has no option string last, as it is typed."""
    actions = [
        one
        for one in parser._actions  # noqa: SLF001
        if one.dest != "help" and one.help != argparse.SUPPRESS
    ]
    return sorted(actions, key=lambda one: not one.option_strings)


def _invocation(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {_value(action)}"
    return ", ".join(f"{option}{value}" for option in action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.metavar is None and action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def _text(text: str | None) -> Iterator[str]:
    if text:
        yield f"{text}\n\n"


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    return {}


def _help_of(parser: argparse.ArgumentParser, one: argparse.ArgumentParser) -> str:
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for choice in action._choices_actions:  # noqa: SLF001
                if one.prog.endswith(f" {choice.dest}"):
                    return str(choice.help)
    return ""


if __name__ == "__main__":
    sys.stdout.write(markdown())
