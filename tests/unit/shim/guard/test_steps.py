from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from shim.guard import steps
from shim.guard.calls import Piece
from shim.guard.maps import Area
from shim.guard.steps import COARSE, FINE, MANY, Step

P = 4096
WHOLE = Area(3 * P, 8 * COARSE, 3, frozenset({"dd"}), 2)


def part(start: int, end: int) -> Area:
    return Area(start, end, WHOLE.prot, WHOLE.flags, WHOLE.key)


def test_large_pieces_are_taken_as_they_are() -> None:
    piece = part(COARSE + P, COARSE + P + FINE)
    assert steps.steps([Piece(piece, empty=True)], [WHOLE], 100) == [Step(piece, ())]


def test_small_pieces_take_a_grain() -> None:
    piece = part(COARSE + P, COARSE + 3 * P)
    kept = ((COARSE, COARSE + P), (COARSE + 3 * P, COARSE + FINE))
    wanted = Step(part(COARSE, COARSE + FINE), kept)
    assert steps.steps([Piece(piece, empty=True)], [WHOLE], MANY - 1) == [wanted]
    kept = ((COARSE, COARSE + P), (COARSE + 3 * P, 2 * COARSE))
    wanted = Step(part(COARSE, 2 * COARSE), kept)
    assert steps.steps([Piece(piece, empty=True)], [WHOLE], MANY) == [wanted]


def test_a_grain_ends_with_its_area() -> None:
    piece = part(4 * P, 5 * P)
    wanted = Step(part(3 * P, FINE), ((3 * P, 4 * P), (5 * P, FINE)))
    assert steps.steps([Piece(piece, empty=True)], [WHOLE], 1) == [wanted]


def test_kept_pieces_are_kept() -> None:
    piece = part(4 * P, 5 * P)
    assert steps.steps([Piece(piece, empty=False)], [WHOLE], 1) == [Step(piece, ((4 * P, 5 * P),))]


@given(
    first=st.integers(0, 500),
    count=st.integers(1, 500),
    empty=st.booleans(),
    lines=st.sampled_from([1, MANY]),
)
def test_a_step_covers_its_piece_and_keeps_the_rest(
    first: int, count: int, *, empty: bool, lines: int
) -> None:
    whole = Area(P, 2000 * P, 3)
    area = Area((first + 1) * P, (first + 1 + count) * P, 3)
    (step,) = steps.steps([Piece(area, empty=empty)], [whole], lines)
    assert whole.start <= step.area.start <= area.start
    assert area.end <= step.area.end <= whole.end
    kept = {page for start, end in step.keep for page in range(start, end, P)}
    every = set(range(step.area.start, step.area.end, P))
    gone = set(range(area.start, area.end, P)) if empty else set()
    assert kept == every - gone
    split = steps.chunks(step, 16 * P)
    assert split[0].area.start == step.area.start
    assert split[-1].area.end == step.area.end
    assert all(one.area.end == two.area.start for one, two in itertools.pairwise(split))
    assert {at for one in split for s, e in one.keep for at in range(s, e, P)} == kept
    for one in split:
        assert all(one.area.start <= s < e <= one.area.end for s, e in one.keep)


def test_calls() -> None:
    plain = Area(P, 3 * P, 1)
    assert steps.mmap(plain) == (9, P, 2 * P, 1, 0x32, (1 << 64) - 1, 0)
    assert steps.dressing(plain, locks=False) == []
    assert steps.dressing(plain, locks=True) == [(150, P, 2 * P)]
    dressed = Area(P, 3 * P, 3, frozenset({"nr", "dc", "dd", "lo", "hg"}), 5)
    assert steps.mmap(dressed) == (9, P, 2 * P, 3, 0x4032, (1 << 64) - 1, 0)
    assert steps.dressing(dressed, locks=True) == [
        (28, P, 2 * P, 10),
        (28, P, 2 * P, 14),
        (28, P, 2 * P, 16),
        (329, P, 2 * P, 3, 5),
        (325, P, 2 * P, 1),
    ]
