"""Which pages of a snapshot restored containers touched first: what this node remembers of it.

A snapshot never changes, and is shared by nodes; this is learned from its use and belongs to the
node: ``<state>/node/hot/<64 hex>.json``. It only says what to read first, so a file that is
missing, damaged or made for another size is as good as none.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cri.prefetch import ranges
from cri.prefetch.ranges import Range
from cri.store.refs import hex_of, is_hex

RUNS = 3
"""Restores from which a node learns; what each touched is added."""

GAP = 64 << 10
"""Bytes between two ranges that are read as one: as quick on any disk, and a fault does so too."""

_ROUGH = 0.1
"""Share of what a run touched that may be mapped as large folios in a run that counts as exact."""

_MOST = 8192  # ranges; more are read as fewer and larger ones
_MAX = 1 << 20  # bytes of a file; _MOST ranges with numbers of 15 digits take a quarter


@dataclass(frozen=True, kw_only=True)
class Hot:
    """What is known of one snapshot."""

    size: int
    """Bytes of the snapshot's ``pages``."""
    runs: int = 0
    """Restores that were watched to their end."""
    ranges: tuple[Range, ...] = ()
    """Of ``pages``: those touched first come first."""
    exact: bool = True
    """Whether it is known to some pages; else mostly to 2 MiB, as large folios are mapped."""

    def touched(self, more: Iterable[Range]) -> Hot:
        """With ranges that were touched after all these, as far as they lie in ``pages``."""
        # Small gaps are closed also towards what is known, or each look would leave slivers.
        known = ranges.merge(self.ranges)
        # A container says what it has mapped, and may have mapped another file of that name.
        inside = ranges.intersect(more, [(0, self.size)]) if self.size else []
        grown = ranges.merge([*known, *inside], gap=GAP)
        found = (*self.ranges, *ranges.subtract(grown, known))
        if len(found) > _MOST:
            found = tuple(ranges.simplify(found, _MOST // 2, gap=GAP))
        return replace(self, ranges=found)

    def watched(self) -> Hot:
        """With one run more."""
        return replace(self, runs=self.runs + 1)


class Run:
    """One restore that is watched, and what is known with it. Pure.

    What a run tells exactly takes the place of what earlier ones told roughly, and what it tells
    roughly adds nothing to what is known exactly.
    """

    def __init__(self, before: Hot) -> None:
        self._before = before
        self._added = before
        self._alone = Hot(size=before.size)
        self._huge = 0

    @property
    def is_needless(self) -> bool:
        """Whether enough was known before."""
        return self._before.exact and self._before.runs >= RUNS

    def look(self, found: Sequence[Range], *, huge: int) -> None:
        """Take in what has been touched so far, of which ``huge`` bytes are known but roughly."""
        self._added = self._added.touched(found)
        self._alone = self._alone.touched(found)
        self._huge = max(self._huge, huge)

    @property
    def known(self) -> Hot:
        """What is known now."""
        if self._huge > ranges.total(self._alone.ranges) * _ROUGH:
            known_before = self._before.exact and self._before.ranges
            return self._before if known_before else replace(self._added, exact=False)
        return self._added if self._before.exact else self._alone


def encode(hot: Hot) -> bytes:
    """The content of the file."""
    raw = {"size": hot.size, "runs": hot.runs, "exact": hot.exact, "ranges": hot.ranges}
    return json.dumps(raw, separators=(",", ":")).encode() + b"\n"


def decode(data: bytes, size: int) -> Hot | None:
    """What a file says of a ``pages`` of ``size`` bytes; None when it says nothing of use."""
    try:
        raw = json.loads(data)
        found = tuple((start, end) for start, end in raw["ranges"])
        hot = Hot(size=raw["size"], runs=raw["runs"], exact=raw["exact"], ranges=found)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    numbers = (hot.size, hot.runs, *(number for one in found for number in one))
    if not all(type(number) is int and number >= 0 for number in numbers) or hot.size != size:
        return None
    if type(raw["exact"]) is not bool:
        return None
    if any(not start < end <= size for start, end in found):
        return None
    if ranges.total(ranges.merge(found)) != ranges.total(found):
        return None
    return hot


class HotPages:
    """The files of this node."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "node" / "hot"

    def get(self, digest: str, size: int) -> Hot:
        """What is known of a snapshot whose ``pages`` has ``size`` bytes; perhaps nothing."""
        nothing = Hot(size=size)
        try:
            fd = os.open(
                self._path(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
            with os.fdopen(fd, "rb") as file:
                data = file.read(_MAX + 1)
        except OSError:
            return nothing
        return (decode(data, size) if len(data) <= _MAX else None) or nothing

    def put(self, digest: str, hot: Hot) -> None:
        """Write it down. Raises OSError."""
        path = self._path(digest)
        aside = path.with_name(f".{secrets.token_hex(8)}")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            fd = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(encode(hot))
            aside.replace(path)
        except OSError:
            with suppress(OSError):
                aside.unlink()
            raise

    def keep_only(self, digests: Collection[str]) -> None:
        """Forget all other snapshots. What cannot be removed stays."""
        kept = {f"{hex_of(one)}.json" for one in digests}
        with suppress(OSError):
            for path in self._folder.iterdir():
                if path.name not in kept and is_hex(path.name.removesuffix(".json")):
                    with suppress(OSError):
                        path.unlink()

    def _path(self, digest: str) -> Path:
        return self._folder / f"{hex_of(digest)}.json"
