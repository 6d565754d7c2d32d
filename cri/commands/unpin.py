"""``podthaw unpin``."""

from __future__ import annotations

import argparse

from cri import output
from cri.commands.common import Subparsers, add_reference, find, new_command, open_store
from cri.store.pins import USER
from shim.errors import Unfit


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "unpin",
        "Let pinned snapshots be removed again. With --who, drop the pin of a restore that will\n"
        "never end, as on a node that is gone; `podthaw inspect` lists the pins. A node drops\n"
        "pins of its own vanished restores by itself.",
        "podthaw unpin shop/embeddings\n"
        "podthaw unpin 4f1c22 --who node-7.0123456789abcdef0123456789abcdef",
    )
    add_reference(parser, many=True)
    parser.add_argument(
        "--who", metavar="WHO", default=USER, help="whose pin to drop (default: user)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Unpin each."""
    store = open_store(args)
    digests = [find(store, reference, args).digest for reference in args.references]
    for digest in digests:
        if not store.unpin(digest, args.who):
            raise Unfit(f"the snapshot {digest} has no pin {args.who}")
        output.say(f"unpinned {digest}")
    return 0
