"""``podthaw unquarantine``."""

from __future__ import annotations

import argparse

from cri import output
from cri.commands.common import (
    Subparsers,
    add_reference,
    find,
    new_command,
    open_quarantine,
    open_store,
)
from shim.errors import Unfit


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "unquarantine",
        "Let this node try a snapshot again. A snapshot that broke during a restore (damaged\n"
        "files, or CRIU failed) is not tried again on that node; `podthaw inspect` tells why.",
        "podthaw unquarantine shop/embeddings",
    )
    add_reference(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Release it."""
    digest = find(open_store(args), args.reference, args).digest
    if not open_quarantine(args).release(digest):
        raise Unfit(f"the snapshot {digest} is not quarantined on this node")
    output.say(f"{digest} may be tried again")
    return 0
