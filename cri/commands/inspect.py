"""``podthaw inspect``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from cri import output
from cri.commands.common import (
    Subparsers,
    add_reference,
    find,
    new_command,
    open_quarantine,
    open_store,
    summary,
)
from shim.errors import Unfit


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "inspect",
        "Show all that is known of a snapshot: names, pins, quarantine, disk usage, damage that\n"
        "is seen without reading it all, and its manifest.",
        "podthaw inspect shop/embeddings\npodthaw inspect 4f1c22 -o json",
    )
    add_reference(parser)
    output.add_document_option(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the document."""
    store = open_store(args)
    digest = find(store, args.reference, args).digest
    one = store.get(digest)
    if one is None:
        raise Unfit(f"the snapshot {digest} was removed meanwhile")
    value = {
        **summary(one, open_quarantine(args)),
        "folder": str(one.folder),
        "names": [f"{namespace}/{name}" for namespace, name in one.names],
        "pins": list(one.pins),
        "manifest": asdict(one.manifest) if one.manifest else None,
    }
    sys.stdout.write(output.document(value, args.output))
    return 0
