"""Pins: ``pins/<digest>/<who>`` keeps a snapshot in the store.

``who`` is ``user`` for a pin that a person set, or ``<node>.<plan id>`` for a restore under way.

Two nodes may share the store, and no lock holds across nodes. A restore that pins and a removal
can still not miss each other: the restore first makes its pin and then looks for a removal's
mark, the removal first makes its mark and then looks for pins. Whichever comes later sees the
other; when both see each other, both give way and the snapshot stays.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cri.store.files import FULL, PINS, SNAPSHOTS, Area
from cri.store.refs import hex_of, shown
from shim.errors import Refused, Unfit

USER = "user"
"""The pin that a person sets."""

_WHO = re.compile(r"user|[a-z0-9][a-z0-9.-]{0,127}\.[0-9a-f]{32}")
_MARK = "removing~"  # no pin's name can begin so
_MARK_LIFE = 600.0  # seconds; a removal's mark older than this was left by one that died


def is_mark(entry: str) -> bool:
    """Whether an entry among the pins is a removal's mark."""
    return entry.startswith(_MARK)


def in_use(who: str) -> bool:
    """Whether a pin stands for a restore under way, not for a person's wish."""
    return who != USER


def plan_of(who: str) -> tuple[str, str] | None:
    """Node and plan id of a pin of a restore; None for a person's pin."""
    if not in_use(who):
        return None
    node, _, plan = who.rpartition(".")
    return node, plan


class Pins:
    """All pins of one store."""

    def __init__(self, area: Area, clock: Callable[[], float] = time.time) -> None:
        self._area = area
        self._clock = clock

    def who(self, plan_id: str) -> str:
        """The name of this node's pin for a plan."""
        return f"{self._area.node}.{plan_id}"

    def add(self, digest: str, who: str = USER) -> None:
        """Pin a snapshot of the store; Unfit when it is not there or is being removed."""
        name = hex_of(digest)
        _check_who(who)
        with self._area.sentences("pin a snapshot"):
            # A restore does not outlive the node, and must not wait for a disk.
            self._area.write(b"", PINS, name, who, sync=not in_use(who))
            try:
                self.require_staying(digest)
            except Unfit:
                self._area.unlink(PINS, name, who)
                self._drop_empty(name)
                raise

    def require_staying(self, digest: str) -> None:
        """Unfit when the snapshot is not in the store, or is being removed."""
        name = hex_of(digest)
        with self._area.sentences(f"look for the snapshot {digest}"):
            if self._is_marked(name):
                raise Unfit(f"the snapshot {digest} is being removed")
            if self._area.status(SNAPSHOTS, name) is None:
                raise Unfit(f"there is no snapshot {digest} in the store {self._area.root}")

    def drop(self, digest: str, who: str = USER) -> bool:
        """Remove a pin; False when there was none."""
        name = hex_of(digest)
        _check_who(who)
        with self._area.sentences("unpin a snapshot"):
            dropped = self._area.unlink(PINS, name, who, sync=not in_use(who))
            self._drop_empty(name)
            return dropped

    def of(self, digest: str) -> list[str]:
        """Who pins a snapshot, sorted."""
        with self._area.sentences("read its pins"):
            entries = self._area.entries(PINS, hex_of(digest))
        return [entry for entry in entries if _WHO.fullmatch(entry)]

    @contextmanager
    def removing(self, digest: str) -> Iterator[None]:
        """Mark a snapshot as being removed: from here on nobody can pin it.

        The mark goes when the block ends. On a full disk it may be impossible to make one; a
        removal is what helps then, so it goes on without.
        """
        name = hex_of(digest)
        mark = f"{_MARK}{self._area.fresh_name()}"
        try:
            self._area.write(b"", PINS, name, mark, sync=False)
        except OSError as error:
            if error.errno not in FULL:
                raise
        try:
            yield
        finally:
            with suppress(OSError):
                self._area.unlink(PINS, name, mark, sync=False)
                self._drop_empty(name)

    def _is_marked(self, name: str) -> bool:
        for entry in filter(is_mark, self._area.entries(PINS, name)):
            status = self._area.status(PINS, name, entry)
            if status is not None and self._clock() - status.st_mtime < _MARK_LIFE:
                return True
        return False

    def _drop_empty(self, name: str) -> None:
        with suppress(OSError), self._area.folder(PINS) as pins:
            os.rmdir(name, dir_fd=pins)


def _check_who(who: str) -> None:
    if not _WHO.fullmatch(who):
        raise Refused(f"{shown(who)} is not who can pin: wanted user or NODE.PLAN")
