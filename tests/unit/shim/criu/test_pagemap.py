from __future__ import annotations

import struct
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.criu import images, pagemap
from shim.criu.images import Entry, Image
from shim.criu.pagemap import LAZY, PARENT, PRESENT, Pagemap, Run
from shim.criu.wire import Message
from shim.errors import Broken

HEADER = struct.pack("<II", images.COMMON_MAGIC, images.PAGEMAP)
HEAD = Message.parse(b"\x08\x05\x50\x01")
"""pages-5.img, and a field that is not known."""


def entry(**values: int) -> Entry:
    """A message with the fields given by number: ``f1=0x1000``."""
    made = Message()
    for key, value in values.items():
        made.set_uint(int(key[1:]), value)
    return Entry(made.encode())


def image(*entries: Entry, head: Message = HEAD) -> bytes:
    return images.encode(Image(HEADER, images.PAGEMAP, [Entry(head.encode()), *entries]))


_FLAGS = st.sampled_from([PRESENT, PRESENT | LAZY, PARENT])
_ROWS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 18), _FLAGS), max_size=20)


def _runs(rows: list[tuple[int, int, int]]) -> list[Run]:
    """(gap before it, pages, flags) → runs."""
    ends = accumulate(gap + pages for gap, pages, _ in rows)
    return [
        Run(end - pages << 12, pages, flags)
        for end, (_, pages, flags) in zip(ends, rows, strict=True)
    ]


@given(_ROWS)
def test_an_image_of_criu_4_2_is_put_together_byte_for_byte(
    rows: list[tuple[int, int, int]],
) -> None:
    runs = _runs(rows)
    data = image(*(entry(f1=run.start, f2=0, f4=run.flags, f5=run.pages) for run in runs))
    found = pagemap.decode(data, "pagemap-1.img")
    assert found.runs == runs
    assert found.pages_id == 5
    assert pagemap.encode(found) == data


@given(_ROWS.filter(bool))
def test_an_image_of_criu_4_1_is_put_together_byte_for_byte(
    rows: list[tuple[int, int, int]],
) -> None:
    runs = _runs(rows)
    data = image(*(entry(f1=run.start, f2=run.pages, f4=run.flags) for run in runs))
    found = pagemap.decode(data, "pagemap-1.img")
    assert found.runs == runs
    assert not found.wide
    assert pagemap.encode(found) == data


def test_flags_of_an_old_criu_are_understood() -> None:
    data = image(entry(f1=0x1000, f2=1), entry(f1=0x2000, f2=1, f3=1))
    assert [run.flags for run in pagemap.decode(data, "x").runs] == [PRESENT, PARENT]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), _FLAGS)))
def test_joined_runs_are_the_same_pages(rows: list[tuple[int, int, int]]) -> None:
    runs = _runs(rows)

    def pages(some: list[Run]) -> list[tuple[int, int]]:
        return [(at, run.flags) for run in some for at in range(run.start, run.end, 4096)]

    found = pagemap.joined(runs)
    assert pages(found) == pages(runs)
    assert all(one.end != other.start or one.flags != other.flags for one, other in pairwise(found))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (image(entry(f1=0x1000, f2=1, f6=1)), "a field that is not known"),
        (image(entry(f1=0x1000, f2=1, f4=8)), "the flags 0x8"),
        (image(entry(f1=0x1000, f2=0)), "0 pages at 0x1000"),
        (image(entry(f1=0x1001, f2=1)), "1 pages at 0x1001"),
        (image(entry(f2=1)), "1 pages at"),
        (image(entry(f1=0x1000, f2=0, f5=1 << 60)), "pages at 0x1000"),
        (image(entry(f1=0x2000, f2=1), entry(f1=0x2000, f2=1)), "0x2000 are not in order"),
        (image(Entry(b"\x08\x80")), "ends inside a number"),
        (image(Entry(b"\x08" + b"\x80" * 12)), "ends inside a number"),
        (image(entry(f1=0x1000, f2=1))[:-1], "wanted at least"),
        (image()[:-1], "wanted at least"),
        (image(head=Message()), "does not say where its pages are"),
        (HEADER, "wanted 12 bytes"),
        (struct.pack("<II", images.COMMON_MAGIC, images.MM), "it holds mm"),
    ],
)
def test_what_is_no_page_map_is_told(data: bytes, told: str) -> None:
    with pytest.raises(Broken, match=told):
        pagemap.decode(data, "pagemap-1.img")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_page_map_or_broken(data: bytes) -> None:
    try:
        found = pagemap.decode(HEADER + data, "pagemap-1.img")
    except Broken:
        return
    assert isinstance(found, Pagemap)
