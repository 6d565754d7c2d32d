"""Where two processes' contents of one address range differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from shim.memory.files import SourceFiles
from shim.memory.layout import Candidate, Ranges
from shim.memory.model import PAGE
from shim.memory.pieces import Piece, gaps, windows, within

_STEP = 1 << 20
"""Bytes compared at once."""

_MAX_PAGES = 8192
"""32 MiB: more would take CRIU longer to copy than the area is worth."""

_PART = 4
"""At most one page in so many may differ."""


class Comparison:
    """Compares VMAs of one dump; for :func:`shim.memory.layout.plan`."""

    def __init__(self, pieces: Mapping[int, Sequence[Piece]], files: SourceFiles) -> None:
        self._pieces = pieces
        self._files = files
        self._rooms = bytearray(_STEP), bytearray(_STEP)

    def __call__(self, one: Candidate, other: Candidate) -> Ranges | None:
        """Where the content of ``one`` is not that of ``other``; None: in too many places."""
        allowed = min(_MAX_PAGES, max(one.pages, other.pages) // _PART)
        found: list[tuple[int, int]] = []
        pages = 0
        for at, left, right in self._steps(one, other):
            start, end = max(at, one.start), min(at + _STEP, one.end)
            for low, high in self._differing(left, right, start, end):
                pages += (high - low) // PAGE
                if pages > allowed:
                    return None
                if found and found[-1][1] == low:
                    found[-1] = found[-1][0], high
                else:
                    found.append((low, high))
        return tuple(found)

    def _steps(
        self, one: Candidate, other: Candidate
    ) -> Iterator[tuple[int, list[Piece], list[Piece]]]:
        """Where there is anything to compare; a sparse area may have terabytes where not."""
        left = dict(windows(within(self._pieces[one.pid], one.start, one.end), _STEP))
        right = dict(windows(within(self._pieces[other.pid], one.start, one.end), _STEP))
        for at in sorted(left.keys() | right.keys()):
            yield at, left.get(at, []), right.get(at, [])

    def _differing(
        self, left: list[Piece], right: list[Piece], start: int, end: int
    ) -> Iterator[tuple[int, int]]:
        if left == right:  # nothing there, or the very same bytes of an earlier snapshot
            return
        one, other = (
            self._load(some, room, start, end)
            for some, room in zip((left, right), self._rooms, strict=True)
        )
        if one == other:
            return
        for at in range(0, end - start, PAGE):
            if one[at : at + PAGE] != other[at : at + PAGE]:
                yield start + at, start + at + PAGE

    def _load(self, pieces: list[Piece], room: bytearray, start: int, end: int) -> bytearray:
        """The content of [start, end); cut or grown, ``room`` stays the same memory."""
        size = end - start
        if len(room) != size:
            room[:] = bytes(size)
        with memoryview(room) as view:
            for low, high in gaps(pieces, start, end):
                view[low - start : high - start] = bytes(high - low)
            self._files.read(pieces, view, start)
        return room
