"""``podthaw list``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from cri import output
from cri.commands.common import (
    Subparsers,
    add_namespace,
    new_command,
    open_quarantine,
    open_store,
    state_of,
    summary,
)
from cri.quarantine import Quarantine
from cri.store import Snapshot
from cri.store.refs import check_namespace
from cri.units import human_duration, human_size

HEADS = ("namespace", "name", "digest", "size", "age", "used", "image", "state")


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "list",
        "List snapshots: one line for each name, and one for each snapshot without a name.\n\n"
        "SIZE is what the snapshot takes on disk, AGE the time since this store got it, USED the\n"
        "time since the last restore from it. STATE is ready, or one and more of pinned, in use\n"
        "(restores under way), quarantined (it broke on this node) and damaged.",
        "podthaw list\npodthaw list -n shop -o json",
    )
    add_namespace(parser, "only names in this namespace (default: all namespaces)")
    output.add_output_options(
        parser, quiet="print only NAMESPACE/NAME, or the digest where there is no name"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    if args.namespace is not None:
        check_namespace(args.namespace)
    store, quarantine = open_store(args), open_quarantine(args)
    lines = sorted(
        _lines(store.snapshots(), args.namespace),
        key=lambda line: (not line[0], line[0], line[1], line[2].digest),
    )
    for problem in store.problems():
        output.note(f"podthaw: {problem}")
    if args.output != "table":
        records = [
            {"namespace": namespace or None, "name": name or None, **summary(one, quarantine)}
            for namespace, name, one in lines
        ]
        sys.stdout.write(output.document(records, args.output))
        return 0
    if not lines:
        where = f" in the namespace {args.namespace}" if args.namespace else ""
        output.note(f"no snapshots{where}")
    elif args.quiet:
        for namespace, name, one in lines:
            output.say(f"{namespace}/{name}" if name else one.digest)
    else:
        now = time.time()
        rows = [_row(*line, quarantine, now, full=args.no_trunc) for line in lines]
        sys.stdout.write(output.table(HEADS, rows))
    return 0


def _lines(snapshots: list[Snapshot], namespace: str | None) -> Iterator[tuple[str, str, Snapshot]]:
    for one in snapshots:
        for space, name in one.names:
            if namespace in (None, space):
                yield space, name, one
        if not one.names and namespace is None:
            yield "", "", one


def _row(
    namespace: str, name: str, one: Snapshot, quarantine: Quarantine, now: float, *, full: bool
) -> list[str]:
    return [
        namespace,
        name,
        output.short_id(one.digest, full=full),
        human_size(one.disk),
        human_duration(now - one.published),
        human_duration(now - one.used) if one.used > one.published else "never",
        output.short_text(one.manifest.source.image if one.manifest else "", full=full),
        state_of(one, quarantine),
    ]
