"""``podthaw gc``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TypeVar

from cri import output
from cri.commands.common import Subparsers, new_command, open_store, plan_ids, settings
from cri.prefetch.hot import HotPages
from cri.store import Policy, Removal
from cri.units import human_size, parse_duration, parse_size
from shim.errors import PodthawError

_Number = TypeVar("_Number", int, float)

HEADS = ("digest", "names", "size", "removed", "reason")


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "gc",
        "Remove what nobody uses: snapshots without a name (an hour old or more), what processes\n"
        "that died left behind, and what exceeds the limits, least recently used first. What is\n"
        "pinned or in use stays. The limits come from the configuration (gc_max_count,\n"
        "gc_max_age, gc_max_size); an option replaces one, and the value none lifts it.",
        "podthaw gc --dry-run\npodthaw gc --max-age 30d --max-size 200Gi --max-count none",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be removed, and why"
    )
    parser.add_argument(
        "--max-count",
        metavar="N",
        type=_count,
        help="snapshots that a namespace may have names for",
    )
    parser.add_argument(
        "--max-age",
        metavar="DURATION",
        type=_duration,
        help="time for which a snapshot may be unused, such as 12h, 30d",
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        type=_size,
        help="space on disk for all snapshots together, such as 200Gi",
    )
    output.add_output_options(parser, quiet="print only digests of removed snapshots")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Collect and report; exit status 1 when something could not be removed."""
    living = plan_ids(settings(args).run)
    store = open_store(args)
    if not store.exists() and args.output == "table":
        if not args.quiet:
            output.note(f"there is no snapshot store at {store.root} yet")
        return 0
    result = store.gc(_policy(args), dry_run=args.dry_run, plans=living)
    if not args.dry_run and store.exists():
        HotPages(settings(args).state).keep_only([one.digest for one in store.snapshots()])
    for problem in result.kept:
        output.note(f"podthaw: {problem}")
    if args.output != "table":
        value = {
            "dry_run": args.dry_run,
            "removed": [_record(removal) for removal in result.removals],
            "leftovers": result.swept,
            "problems": result.kept,
        }
        sys.stdout.write(output.document(value, args.output))
    elif args.quiet:
        for removal in result.removals:
            if removal.whole:
                output.say(removal.digest)
    else:
        _report(args, result.removals, len(result.swept))
    return 1 if result.kept else 0


def _report(args: argparse.Namespace, removals: list[Removal], leftovers: int) -> None:
    if removals:
        rows = [
            [
                output.short_id(removal.digest, full=args.no_trunc),
                ",".join(f"{namespace}/{name}" for namespace, name in removal.names),
                human_size(removal.reclaimed),
                "snapshot" if removal.whole else "names",
                removal.reason,
            ]
            for removal in removals
        ]
        sys.stdout.write(output.table(HEADS, rows))
    would = "would be " if args.dry_run else ""
    total = human_size(sum(removal.reclaimed for removal in removals))
    output.note(f"{total} in snapshots and {_number(leftovers, 'leftover')} {would}removed")


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _record(removal: Removal) -> dict[str, object]:
    names = [f"{namespace}/{name}" for namespace, name in removal.names]
    return {**asdict(removal), "names": names}


def _policy(args: argparse.Namespace) -> Policy:
    ours = settings(args)
    return Policy(
        max_count=_limit(args.max_count, ours.gc_max_count),
        max_age=_limit(args.max_age, ours.gc_max_age),
        max_size=_limit(args.max_size, ours.gc_max_size),
    )


def _limit(given: _Number | None, configured: _Number | None) -> _Number | None:
    if given is None:
        return configured
    return None if given == _NONE else given


_NONE = -1


def _count(text: str) -> int:
    if text == "none":
        return _NONE
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of snapshots")
    return int(text)


def _duration(text: str) -> float:
    try:
        return _NONE if text == "none" else parse_duration(text)
    except PodthawError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size(text: str) -> int:
    try:
        return _NONE if text == "none" else parse_size(text)
    except PodthawError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
