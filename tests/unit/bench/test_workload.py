from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from mmap import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import workload
from tests.bench.contender import FIVE_PERCENT, READ_ALL, WRITE_ALL

MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[mmap]:
    with workload.fill(33 * MIB) as value:
        yield value


def test_no_two_pages_are_equal_and_the_last_one_is_filled(memory: mmap) -> None:
    pages = {memory[at : at + 4096] for at in range(0, len(memory), 4096)}
    assert len(pages) == len(memory) // 4096
    assert memory[-4096:].count(0) < 100


@given(
    pages=st.integers(64, 5000),
    share=st.floats(0.01, 1, exclude_max=True),
    run=st.sampled_from([1, 16, 64]),
)
def test_pieces_lie_apart_inside_the_memory_and_make_up_the_share(
    pages: int, share: float, run: int
) -> None:
    pieces = workload.pieces(pages, share, run)
    assert pieces[0][0] == 0
    assert all(0 < last - first <= run and last <= pages for first, last in pieces)
    assert all(one[1] <= other[0] for one, other in pairwise(pieces))
    touched = sum(last - first for first, last in pieces)
    assert touched <= max(pages * share, run) + 1
    assert touched >= pages * share - 2 * run


def test_the_answer_is_the_same_before_and_after_what_is_written(memory: mmap) -> None:
    before = workload.answer(memory, READ_ALL.path)
    assert workload.answer(memory, WRITE_ALL.path) == before
    assert all(memory[at] == 1 for at in range(1, len(memory), 4096))
    assert workload.answer(memory, FIVE_PERCENT.path) != before
    memory[0] ^= 1
    assert workload.answer(memory, READ_ALL.path) != before
    assert workload.answer(memory, "/") == "ready"
