"""``podthaw pin``."""

from __future__ import annotations

import argparse

from cri import output
from cri.commands.common import Subparsers, add_reference, find, new_command, open_store


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "pin",
        "Keep snapshots from being removed, by `podthaw gc` and by `podthaw remove`. A pin holds\n"
        "the snapshot, not the name: a name that moves on leaves it pinned.",
        "podthaw pin shop/embeddings",
    )
    add_reference(parser, many=True)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Pin each."""
    store = open_store(args)
    digests = [find(store, reference, args).digest for reference in args.references]
    for digest in digests:
        store.pin(digest)
        output.say(f"pinned {digest}")
    return 0
