"""``podthaw tag``."""

from __future__ import annotations

import argparse

from cri import output
from cri.commands.common import Subparsers, add_reference, find, new_command, open_store
from cri.store.refs import check_name, check_namespace
from shim.errors import Refused


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "tag",
        "Give a snapshot one more name. NEWNAME is NAMESPACE/NAME, or NAME in the namespace of\n"
        "REF or -n. A name that points to another snapshot is moved; that one stays in the store\n"
        "until `podthaw gc` when it has no other name.",
        "podthaw tag shop/embeddings embeddings-v2\npodthaw tag 4f1c22 shop/embeddings",
    )
    add_reference(parser)
    parser.add_argument("new_name", metavar="NEWNAME", help="the name to give")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Set the name."""
    store = open_store(args)
    found = find(store, args.reference, args)
    before, slash, after = args.new_name.partition("/")
    namespace, name = (before, after) if slash else (args.namespace or found.namespace, before)
    if namespace is None:
        raise Refused(f"{check_name(name)} needs a namespace: wanted NAMESPACE/NAME")
    check_namespace(namespace)
    previous = store.set_name(namespace, name, found.digest)
    moved = f", before {previous}" if previous not in (None, found.digest) else ""
    output.say(f"{namespace}/{name} is {found.digest}{moved}")
    return 0
