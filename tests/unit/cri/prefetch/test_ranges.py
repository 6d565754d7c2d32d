from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from cri.prefetch.ranges import (
    Range,
    first,
    intersect,
    join,
    merge,
    pieces,
    simplify,
    subtract,
    total,
)

SPAN = 60
anything = st.lists(
    st.tuples(st.integers(0, SPAN), st.integers(1, 12)).map(lambda one: (one[0], sum(one))),
    max_size=12,
)
sorted_ones = anything.map(merge)
ordered = sorted_ones.flatmap(st.permutations)


def members(ranges: Iterable[Range]) -> set[int]:
    return {at for start, end in ranges for at in range(start, end)}


def listed(ranges: Iterable[Range]) -> list[int]:
    return [at for start, end in ranges for at in range(start, end)]


def is_sorted(ranges: list[Range]) -> bool:
    return all(one[1] < two[0] for one, two in itertools.pairwise(ranges))


class TestMerge:
    def test_by_hand(self) -> None:
        assert merge([(8, 9), (0, 2), (2, 4), (3, 5)]) == [(0, 5), (8, 9)]
        assert merge([(0, 2), (4, 6), (9, 10)], gap=2) == [(0, 6), (9, 10)]

    @given(anything)
    def test_is_the_union(self, ranges: list[Range]) -> None:
        merged = merge(ranges)
        assert members(merged) == members(ranges)
        assert is_sorted(merged)

    @given(anything, st.integers(0, 9))
    def test_closes_exactly_the_small_gaps(self, ranges: list[Range], gap: int) -> None:
        merged = merge(ranges, gap=gap)
        assert members(merged) >= members(ranges)
        assert all(two[0] - one[1] > gap for one, two in itertools.pairwise(merged))
        assert all(end - start <= gap for start, end in subtract(merged, merge(ranges)))


class TestIntersectAndSubtract:
    def test_by_hand(self) -> None:
        assert intersect([(6, 20), (0, 4)], [(2, 8), (10, 12)]) == [(6, 8), (10, 12), (2, 4)]
        assert subtract([(6, 20), (0, 4)], [(2, 8), (10, 12)]) == [(8, 10), (12, 20), (0, 2)]

    @given(ordered, sorted_ones)
    def test_are_sets(self, ranges: list[Range], others: list[Range]) -> None:
        inside, outside = intersect(ranges, others), subtract(ranges, others)
        assert members(inside) == members(ranges) & members(others)
        assert members(outside) == members(ranges) - members(others)
        assert all(start < end for start, end in inside + outside)

    @given(ordered, sorted_ones)
    def test_keep_the_order(self, ranges: list[Range], others: list[Range]) -> None:
        wanted = listed(ranges)
        assert listed(intersect(ranges, others)) == [at for at in wanted if at in members(others)]
        assert listed(subtract(ranges, others)) == [
            at for at in wanted if at not in members(others)
        ]


@given(ordered)
def test_total(ranges: list[Range]) -> None:
    assert total(ranges) == len(members(ranges))


@given(ordered, st.integers(0, 80))
def test_first(ranges: list[Range], most: int) -> None:
    found = first(ranges, most)
    assert listed(found) == listed(ranges)[:most]
    assert all(start < end for start, end in found)


@given(ordered, st.integers(1, 20))
def test_pieces(ranges: list[Range], size: int) -> None:
    found = list(pieces(ranges, size))
    assert listed(found) == listed(ranges)
    assert all(0 < end - start <= size for start, end in found)


class TestSimplify:
    def test_by_hand(self) -> None:
        assert simplify([(0, 1), (4, 5), (100, 101)], 2, gap=1) == [(0, 5), (100, 101)]

    @given(anything, st.integers(1, 5))
    def test_covers_with_few(self, ranges: list[Range], most: int) -> None:
        found = simplify(ranges, most, gap=1)
        assert members(found) >= members(ranges)
        assert len(found) <= most
        assert is_sorted(found)


class TestJoin:
    def test_by_hand(self) -> None:
        assert list(join([(0, 1), (2, 3), (9, 10), (4, 5)], gap=1)) == [(0, 3), (9, 10), (4, 5)]
        assert list(join([])) == []

    @given(sorted_ones, st.integers(0, 9))
    def test_of_what_is_sorted_it_is_merging(self, ranges: list[Range], gap: int) -> None:
        assert list(join(ranges, gap=gap)) == merge(ranges, gap=gap)

    @given(ordered, st.integers(0, 9))
    def test_covers_all_whatever_the_order(self, ranges: list[Range], gap: int) -> None:
        assert members(join(ranges, gap=gap)) >= members(ranges)
