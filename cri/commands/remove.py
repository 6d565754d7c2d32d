"""``podthaw remove``."""

from __future__ import annotations

import argparse

from cri import output
from cri.commands.common import Subparsers, add_reference, find, new_command, open_store
from cri.store import Force, Found, Store
from shim.errors import Unfit


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "remove",
        "Remove names and snapshots. A REF that is a name removes the name, and the snapshot with\n"
        "its last name. A REF that is a digest removes the snapshot, if no name points to it.\n"
        "What is pinned or in use stays.",
        "podthaw remove shop/embeddings\npodthaw rm --force 4f1c22",
    )
    add_reference(parser, many=True)
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="remove the snapshot with all its names, although it is pinned",
    )
    parser.add_argument(
        "--in-use",
        action="store_true",
        help="remove the snapshot although restores from it are under way, which may then fail",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Remove each."""
    store = open_store(args)
    force = Force(names=args.force, pin=args.force, use=args.in_use)
    found = [_find(store, reference, args) for reference in args.references]
    for one in dict.fromkeys(found):
        _remove(store, one, force)
    return 0


def _find(store: Store, reference: str, args: argparse.Namespace) -> Found:
    try:
        return find(store, reference, args)
    except Unfit:
        # A name whose snapshot is gone can still be removed.
        namespace, _, name = reference.rpartition("/")
        key = (namespace or args.namespace or "", name)
        digest = store.names().get(key)
        if digest is None:
            raise
        return Found(digest, *key)


def _remove(store: Store, found: Found, force: Force) -> None:
    if found.namespace is None or found.name is None:
        store.remove(found.digest, force=force)
        output.say(f"removed {found.digest}")
        return
    key = (found.namespace, found.name)
    others = [other for other, digest in store.names().items() if digest == found.digest]
    if (others not in ([key], []) and not force.names) or store.get(found.digest) is None:
        store.remove_name(*key)
        output.say(f"removed the name {found.namespace}/{found.name}")
        return
    store.remove(found.digest, names=[key], force=force)
    output.say(f"removed {found.namespace}/{found.name} {found.digest}")
