"""What the store knows of one snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cri.store.pins import USER, in_use
from shim.snapshot import Manifest


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One snapshot of the store."""

    digest: str
    """``sha256:<hex>``."""
    folder: Path
    names: tuple[tuple[str, str], ...]
    """(namespace, name) of each name that points to it, sorted."""
    pins: tuple[str, ...]
    """Who pins it: ``user``, or ``<node>.<plan id>`` for a restore under way."""
    published: float
    """Unix time in seconds at which this store got it."""
    used: float
    """Unix time in seconds of the last restore from it; the publication's when there was none."""
    disk: int
    """Bytes on disk."""
    manifest: Manifest | None
    """None when it cannot be read; ``problem`` says why."""
    problem: str = ""
    """What is wrong with it: one sentence, empty when nothing is seen without reading it all."""

    @property
    def pinned(self) -> bool:
        """Whether a person pinned it."""
        return USER in self.pins

    @property
    def in_use(self) -> int:
        """Number of restores under way from it."""
        return sum(in_use(who) for who in self.pins)
