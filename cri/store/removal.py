"""Taking a snapshot out of the store, unless something holds it.

The order makes a crash harmless at every step: mark, check, names, then one rename out of
``snapshots/``, and only then the files. Whatever is left is an orphan or lies in ``tmp/``, and the
next collection takes it.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass

from cri.store.files import SNAPSHOTS, TMP, USED, Area
from cri.store.leftovers import REMOVED, discard
from cri.store.names import Names
from cri.store.pins import USER, Pins, in_use
from cri.store.refs import hex_of
from shim.errors import Refused, Unfit

_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class Force:
    """What a removal overrides."""

    names: bool = False
    """Also remove every name that points to the snapshot."""
    pin: bool = False
    """Although a person pinned it."""
    use: bool = False
    """Although restores from it are under way; they may fail."""


def remove(
    area: Area,
    names: Names,
    pins: Pins,
    digest: str,
    *,
    going: Collection[tuple[str, str]],
    force: Force,
) -> None:
    """Remove a snapshot with its names, of which ``going`` are those that may go.

    Refused when something holds it, Unfit when it is gone meanwhile.
    """
    name = hex_of(digest)
    aside = area.fresh_name() + REMOVED
    with area.sentences(f"remove the snapshot {digest}"):
        with pins.removing(digest):
            _check(names, pins, digest, going, force)
            overridden = pins.of(digest)
            for (namespace, one), target in names.all()[0].items():
                if target == digest:
                    names.remove(namespace, one)
            try:
                area.rename((SNAPSHOTS, name), (TMP, aside))
            except FileNotFoundError:
                raise Unfit(f"the snapshot {digest} was removed by another node") from None
            try:
                # Only matters when the disk had no room for the mark.
                _check(names, pins, digest, (), force)
            except Refused:
                _put_back(area, aside, name)
                raise
            for who in overridden:
                pins.drop(digest, who)
            area.unlink(USED, name)
        discard(area, TMP, aside)


def _put_back(area: Area, aside: str, name: str) -> None:
    try:
        area.rename((TMP, aside), (SNAPSHOTS, name))
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        discard(area, TMP, aside)  # another node published it anew meanwhile


def _check(
    names: Names,
    pins: Pins,
    digest: str,
    going: Collection[tuple[str, str]],
    force: Force,
) -> None:
    others = sorted(
        f"{key[0]}/{key[1]}"
        for key, target in names.all()[0].items()
        if target == digest and key not in going
    )
    if others and not force.names:
        raise Refused(f"the snapshot {digest} is named {', '.join(others[:_LISTED])}")
    holders = pins.of(digest)
    if USER in holders and not force.pin:
        raise Refused(f"the snapshot {digest} is pinned")
    uses = [who for who in holders if in_use(who)]
    if uses and not force.use:
        more = f" and {len(uses) - 1} more" if len(uses) > 1 else ""
        raise Refused(f"the snapshot {digest} is in use by the restore {uses[0]}{more}")
