"""What commands print: tables for people; JSON, YAML and bare names for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

GUTTER = "   "
SHORT = 12
"""Hexadecimal digits of a digest, and of other long ids, in a table."""

_LONGEST = 60
_BREAKS = frozenset("\x85\u2028\u2029")


def add_output_options(parser: argparse.ArgumentParser, *, quiet: str = "") -> None:
    """Give a command ``-o`` and ``--no-trunc``, and ``-q`` when there is a text for it."""
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "yaml"),
        default="table",
        help="how to print (default: table)",
    )
    if quiet:
        parser.add_argument("-q", "--quiet", action="store_true", help=quiet)
    parser.add_argument(
        "--no-trunc", action="store_true", help="print digests, ids and texts in full"
    )


def add_document_option(parser: argparse.ArgumentParser) -> None:
    """Give a command that prints one document ``-o json|yaml``."""
    parser.add_argument(
        "-o",
        "--output",
        choices=("json", "yaml"),
        default="yaml",
        help="how to print (default: yaml)",
    )


def printable(text: str) -> str:
    """Foreign text made safe for a terminal: control and other unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def short_id(text: str, *, full: bool) -> str:
    """A digest or id cut to its first digits, unless the full one is asked for."""
    if full:
        return text
    head, colon, digits = text.rpartition(":")
    return f"{head}{colon}{digits[:SHORT]}"


def short_text(text: str, *, full: bool) -> str:
    """A text cut to a table cell's width, unless the full one is asked for."""
    return text if full or len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def rfc3339(seconds: float) -> str:
    """Unix time as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns under upper-case heads; an empty cell shows ``-``; nothing is wrapped."""
    cells = [[head.upper() for head in heads]]
    cells += [[printable(cell) or "-" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join(
        GUTTER.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in cells
    )


def document(value: Any, form: str) -> str:  # noqa: ANN401 - whatever JSON can hold
    """A value as ``json`` or ``yaml`` text."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if form == "json":
        # A lone surrogate has no UTF-8, and JSON may hold one.
        return text if _is_utf8(text) else json.dumps(value, indent=2) + "\n"
    import yaml  # noqa: PLC0415 - takes longer to load than most commands take to run

    # YAML 1.1's other line breaks: PyYAML writes them as they are, and reads them as spaces.
    readable = _BREAKS.isdisjoint(text)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=readable, width=1000)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def say(text: str) -> None:
    """A line on standard output."""
    sys.stdout.write(f"{printable(text)}\n")


def note(text: str) -> None:
    """A line on standard error: what is no result, but worth knowing."""
    sys.stderr.write(f"{printable(text)}\n")
