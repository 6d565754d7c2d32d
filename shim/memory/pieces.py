"""Ranges of memory and where their bytes lie: the arithmetic that the other modules share.

A *piece* says that ``length`` bytes at ``at`` (an address, or an offset in a file that is being
made) are those at ``offset`` of source file ``file``. Lists of pieces are sorted and do not
overlap; what lies between them is zero.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

ZERO = -1
"""A source that is not a file: its bytes are zero."""


_NOWHERE = 1 << 65, 1 << 65
"""A range beyond all addresses."""


class Piece(NamedTuple):
    """A range and its source."""

    at: int
    length: int
    file: int
    offset: int

    @property
    def end(self) -> int:
        """After its last byte."""
        return self.at + self.length

    def part(self, start: int, end: int) -> Piece:
        """What of it lies in [start, end), which it must touch."""
        low, high = max(start, self.at), min(end, self.end)
        source = 0 if self.file == ZERO else self.offset + low - self.at
        return Piece(low, high - low, self.file, source)

    def moved(self, delta: int) -> Piece:
        """The same bytes ``delta`` further on."""
        return Piece(self.at + delta, self.length, self.file, self.offset)

    def goes_on_in(self, other: Piece) -> bool:
        """Whether the source of ``other`` begins where this one's ends."""
        if self.file == ZERO:
            return other.file == ZERO
        return self.file == other.file and self.offset + self.length == other.offset


def within(pieces: Sequence[Piece], start: int, end: int) -> Iterator[Piece]:
    """The parts that lie in [start, end)."""
    index = bisect_right(pieces, start, key=lambda piece: piece.at) - 1
    for position in range(max(index, 0), len(pieces)):
        piece = pieces[position]
        if piece.at >= end:
            return
        if piece.end > start:
            yield piece.part(start, end)


def gaps(pieces: Iterable[Piece], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges of [start, end) that no piece covers."""
    at = start
    for piece in pieces:
        if piece.at > at:
            yield at, min(piece.at, end)
        at = max(at, piece.end)
        if at >= end:
            return
    if at < end:
        yield at, end


def outside(pieces: Iterable[Piece], ranges: Iterable[tuple[int, int]]) -> Iterator[Piece]:
    """The parts that lie in none of ``ranges``, which are sorted and do not overlap."""
    rest = iter(ranges)
    start, end = next(rest, _NOWHERE)
    for piece in pieces:
        at = piece.at
        while at < piece.end:
            while end <= at:
                start, end = next(rest, _NOWHERE)
            if at < start:
                part = piece.part(at, start)
                yield part
                at = part.end
            else:
                at = end


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same in as few pieces as possible."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and last.end == piece.at and last.goes_on_in(piece):
            found[-1] = Piece(last.at, last.length + piece.length, last.file, last.offset)
        else:
            found.append(piece)
    return found


def windows(pieces: Iterable[Piece], size: int) -> Iterator[tuple[int, list[Piece]]]:
    """The pieces cut at multiples of ``size``: (start of the window, what lies in it)."""
    start = 0
    inside: list[Piece] = []
    for piece in pieces:
        at = piece.at
        while at < piece.end:
            window = at - at % size
            if inside and window != start:
                yield start, inside
                inside = []
            start = window
            part = piece.part(at, window + size)
            inside.append(part)
            at = part.end
    if inside:
        yield start, inside


def length(pieces: Iterable[Piece]) -> int:
    """Bytes in them."""
    return sum(piece.length for piece in pieces)
