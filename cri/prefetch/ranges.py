"""Arithmetic of ranges of a file. Pure functions.

A range is (start, end) in bytes, end excluded, never empty. A *sorted* list is by start, and its
ranges neither touch nor overlap; an *ordered* one has disjoint ranges in the order in which they
shall be read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

Range = tuple[int, int]


def merge(ranges: Iterable[Range], *, gap: int = 0) -> list[Range]:
    """The union of ranges, sorted; gaps of at most ``gap`` bytes are closed."""
    return list(join(sorted(ranges), gap=gap))


def join(ranges: Iterable[Range], *, gap: int = 0) -> Iterator[Range]:
    """The same ranges, where those that follow one another closely are one.

    For what comes sorted, or nearly, and is not to be held in memory.
    """
    so_far: Range | None = None
    for start, end in ranges:
        if so_far is None:
            so_far = (start, end)
        elif so_far[0] <= start <= so_far[1] + gap:
            so_far = (so_far[0], max(so_far[1], end))
        else:
            yield so_far
            so_far = (start, end)
    if so_far is not None:
        yield so_far


def intersect(ranges: Iterable[Range], others: Sequence[Range]) -> list[Range]:
    """What of ``ranges`` lies in ``others`` (sorted), in the order of ``ranges``."""
    found = []
    for start, end in ranges:
        for low, high in _near(others, start, end):
            found.append((max(start, low), min(end, high)))
    return found


def subtract(ranges: Iterable[Range], others: Sequence[Range]) -> list[Range]:
    """What of ``ranges`` does not lie in ``others`` (sorted), in the order of ``ranges``."""
    found = []
    for start, end in ranges:
        at = start
        for low, high in _near(others, start, end):
            if at < low:
                found.append((at, low))
            at = high
        if at < end:
            found.append((at, end))
    return found


def total(ranges: Iterable[Range]) -> int:
    """Bytes in disjoint ranges."""
    return sum(end - start for start, end in ranges)


def first(ranges: Iterable[Range], most: int) -> list[Range]:
    """The first ``most`` bytes of ordered ranges."""
    found = []
    for start, end in ranges:
        if most <= 0:
            break
        found.append((start, min(end, start + most)))
        most -= end - start
    return found


def pieces(ranges: Iterable[Range], size: int) -> Iterator[Range]:
    """The same bytes in the same order, in ranges of at most ``size`` bytes."""
    for start, end in ranges:
        for at in range(start, end, size):
            yield at, min(at + size, end)


def simplify(ranges: Sequence[Range], most: int, *, gap: int) -> list[Range]:
    """At most ``most`` ranges that cover ``ranges``, sorted.

    Gaps of ``gap`` bytes are closed, and ever larger ones for as long as there are too many.
    """
    found = merge(ranges, gap=gap)
    while len(found) > most:
        gap *= 2
        found = merge(found, gap=gap)
    return found


def _near(others: Sequence[Range], start: int, end: int) -> Iterator[Range]:
    """Those of the sorted ``others`` that overlap [start, end)."""
    at = bisect_right(others, start, key=lambda one: one[1])
    while at < len(others) and others[at][0] < end:
        yield others[at]
        at += 1
