"""What processes that died left in the store, and how it is cleared.

Times are compared with the last change of the inode, which unlike the modification time nobody
can set. Each grace is far longer than the step takes after which another process may see a thing.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress

from cri.store import artifacts
from cri.store.files import NAMES, PINS, SNAPSHOTS, TMP, USED, Area
from cri.store.names import Names
from cri.store.pins import Pins, is_mark, plan_of
from cri.store.refs import hex_of, is_hex

REMOVED = ".removed"
"""Ends the name in ``tmp/`` of a snapshot that is being removed."""

_DAY = 86400.0
_MOMENT = 600.0


class Leftovers:
    """Finds leftovers as of a moment; changes nothing."""

    def __init__(self, area: Area, names: Names, pins: Pins, now: float) -> None:
        self._area = area
        self._names = names
        self._pins = pins
        self._now = now

    def all(self) -> list[tuple[str, ...]]:
        """Everything left over, as paths relative to the store, but for pins of restores."""
        with self._area.sentences("be listed"):
            return [*self._marks(), *self._dangling(), *self._abandoned()]

    def stale_pins(self, plans: Collection[str]) -> list[tuple[str, str]]:
        """(digest, who) of each pin that this node made for a plan that is not in ``plans``."""
        with self._area.sentences("be listed"):
            return list(self._stale_pins(plans))

    def _stale_pins(self, plans: Collection[str]) -> Iterator[tuple[str, str]]:
        for entry in filter(is_hex, self._area.entries(PINS)):
            for who in self._pins.of(f"sha256:{entry}"):
                plan = plan_of(who)
                if plan is None or plan[0] != self._area.node or plan[1] in plans:
                    continue
                if self._older(_MOMENT, PINS, entry, who):  # a pin is made before its plan
                    yield f"sha256:{entry}", who

    def _marks(self) -> Iterator[tuple[str, ...]]:
        """Marks of removals that died."""
        for entry in filter(is_hex, self._area.entries(PINS)):
            for who in filter(is_mark, self._area.entries(PINS, entry)):
                if self._older(_MOMENT, PINS, entry, who):
                    yield PINS, entry, who

    def _dangling(self) -> Iterator[tuple[str, ...]]:
        """Pins, use times and names of snapshots that are gone."""
        there = set(self._area.entries(SNAPSHOTS))
        for folder in (PINS, USED):
            for entry in self._area.entries(folder):
                if entry not in there and self._older(_DAY, folder, entry):
                    yield folder, entry
        for (namespace, name), digest in sorted(self._names.all()[0].items()):
            parts = (NAMES, namespace, name)
            if hex_of(digest) not in there and self._older(_DAY, *parts):
                yield parts

    def _abandoned(self) -> Iterator[tuple[str, ...]]:
        """Snapshots half built or half removed."""
        for entry in self._area.entries(TMP):
            life = _MOMENT if entry.endswith(REMOVED) else _DAY
            if not self._older(life, TMP, entry):
                continue
            newest = 0.0
            with suppress(OSError):  # no folder, or gone meanwhile
                below = artifacts.walk(self._area.root / TMP / entry)
                newest = max((status.st_ctime for _, status in below), default=0.0)
            if self._now - newest >= life:
                yield TMP, entry

    def _older(self, seconds: float, *parts: str) -> bool:
        status = self._area.status(*parts)
        return status is not None and self._now - status.st_ctime >= seconds


def discard(area: Area, *parts: str) -> None:
    """Remove a file, link or whole folder of the store; links are not followed. Raises OSError."""
    status = area.status(*parts)
    if status is None:
        return
    if stat.S_ISDIR(status.st_mode):
        with area.folder(*parts[:-1]) as folder, suppress(FileNotFoundError):
            shutil.rmtree(parts[-1], dir_fd=folder)
    else:
        area.unlink(*parts)
