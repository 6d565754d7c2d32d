from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from shim.memory import pieces
from shim.memory.pieces import ZERO, Piece

_SPACE = 64


@st.composite
def _some(draw: st.DrawFn) -> list[Piece]:
    at, found = 0, []
    for gap, size in draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 8)), max_size=6)):
        at += gap
        file = draw(st.sampled_from([ZERO, 0, 1]))
        found.append(Piece(at, size, file, 0 if file == ZERO else draw(st.integers(0, 9))))
        at += size
    return found


_RANGE = st.tuples(st.integers(0, _SPACE), st.integers(1, _SPACE)).map(lambda r: (r[0], sum(r)))


def _bytes(some: list[Piece]) -> dict[int, tuple[int, int]]:
    """Each byte's source."""
    return {
        one.at + n: (one.file, 0 if one.file == ZERO else one.offset + n)
        for one in some
        for n in range(one.length)
    }


@given(_some(), _RANGE)
def test_within_is_what_lies_in_the_range(some: list[Piece], span: tuple[int, int]) -> None:
    found = list(pieces.within(some, *span))
    wanted = {at: one for at, one in _bytes(some).items() if span[0] <= at < span[1]}
    assert _bytes(found) == wanted
    covered = {at for low, high in pieces.gaps(found, *span) for at in range(low, high)}
    assert covered == set(range(*span)) - wanted.keys()


@given(_some(), st.lists(st.integers(0, _SPACE), max_size=6, unique=True).map(sorted))
def test_outside_is_what_lies_in_no_range(some: list[Piece], edges: list[int]) -> None:
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    found = list(pieces.outside(some, ranges))
    assert _bytes(found) == {
        at: one
        for at, one in _bytes(some).items()
        if not any(low <= at < high for low, high in ranges)
    }
    assert all(one.length > 0 for one in found)


@given(_some())
def test_joined_pieces_are_the_same_bytes(some: list[Piece]) -> None:
    found = pieces.joined(some)
    assert _bytes(found) == _bytes(some)
    assert not any(
        one.end == other.at and one.goes_on_in(other) for one, other in itertools.pairwise(found)
    )


@given(_some(), st.integers(1, 10))
def test_windows_are_the_same_bytes_and_cross_no_border(some: list[Piece], size: int) -> None:
    found = list(pieces.windows(some, size))
    assert _bytes([one for _, inside in found for one in inside]) == _bytes(some)
    starts = [start for start, _ in found]
    assert starts == sorted(set(starts))
    for start, inside in found:
        assert start % size == 0
        assert all(start <= one.at and one.end <= start + size for one in inside)


def test_a_moved_piece_has_the_same_source() -> None:
    assert Piece(5, 3, 1, 7).moved(-2) == Piece(3, 3, 1, 7)
    assert pieces.length([Piece(5, 3, 1, 7), Piece(9, 2, ZERO, 0)]) == 5
