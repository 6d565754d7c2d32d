from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import Broken
from shim.memory import sums
from shim.memory.model import PAGE, Extent
from shim.memory.sums import CHUNK, Sum

HEX = "0123456789abcdef" * 4
_PAGES = CHUNK // PAGE


@st.composite
def _some(draw: st.DrawFn) -> list[Sum]:
    found = []
    for window in sorted(draw(st.sets(st.integers(0, 1 << 20), max_size=5))):
        edges = sorted(draw(st.sets(st.integers(0, _PAGES), min_size=2, max_size=6)))
        for low, high in zip(edges[::2], edges[1::2], strict=False):
            found.append(Sum(window * CHUNK + low * PAGE, (high - low) * PAGE, HEX))
    return found


@given(_some())
def test_what_is_written_is_read(some: list[Sum]) -> None:
    assert list(sums.decode(sums.encode(some))) == some


@given(_some())
def test_extents_are_the_same_ranges(some: list[Sum]) -> None:
    found = sums.extents(some)
    assert sum(one.length for one in found) == sum(one.length for one in some)
    assert all(one.offset + one.length < other.offset for one, other in itertools.pairwise(found))


def test_ranges_that_touch_are_one_extent() -> None:
    some = [Sum(0, CHUNK, HEX), Sum(CHUNK, PAGE, HEX), Sum(CHUNK + 2 * PAGE, PAGE, HEX)]
    assert sums.extents(some) == (Extent(0, CHUNK + PAGE), Extent(CHUNK + 2 * PAGE, PAGE))


@pytest.mark.parametrize(
    "data",
    [
        b"0 4096 " + HEX.encode(),
        b"0 4096\n",
        b"\n",
        b"0 4095 %s\n" % HEX.encode(),
        b"00 4096 %s\n" % HEX.encode(),
        b"0 0 %s\n" % HEX.encode(),
        b"0 4096 %s\n" % HEX.upper().encode(),
        b"0 4096 %s \n" % HEX.encode(),
        b"4190208 8192 %s\n" % HEX.encode(),
        b"0 8192 %s\n4096 4096 %s\n" % (HEX.encode(), HEX.encode()),
    ],
)
def test_what_is_no_list_of_digests_is_told(data: bytes) -> None:
    with pytest.raises(Broken, match="digests"):
        list(sums.decode(data))
