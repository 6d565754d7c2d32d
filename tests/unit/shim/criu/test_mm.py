from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.criu import images, mm
from shim.criu.images import Entry, Image
from shim.criu.mm import AddressSpace
from shim.criu.wire import Message
from shim.errors import Broken

HEADER = struct.pack("<II", images.COMMON_MAGIC, images.MM)
ANON = mm.REGULAR | mm.ANON_PRIVATE


def vma(start: int = 0x10000, end: int = 0x20000, **extra: int) -> Message:
    """A memory area as CRIU writes it; ``extra`` are fields by number (``f9=1``)."""
    values = {1: start, 2: end, 3: 0, 4: 0, 5: 3, 6: 0x22, 7: ANON, 8: 1}
    made = Message()
    for number, value in (values | {int(key[1:]): one for key, one in extra.items()}).items():
        made.set_uint(number, value)
    return made


def image(*vmas: Message, later: int = 0) -> bytes:
    """An address space, with a field that is not known after the areas."""
    made = Message()
    for number in range(1, 13):
        made.set_uint(number, number << 12)
    fields = list(made)
    for one in vmas:
        wrapped = Message()
        wrapped.set_message(14, one)
        fields += wrapped
    if later:
        unknown = Message()
        unknown.set_uint(99, later)
        fields += unknown
    return images.encode(Image(HEADER, images.MM, [Entry(Message(fields).encode())]))


def areas(data: bytes) -> list[Message]:
    message = Message.parse(images.decode(data, "mm").entries[0].message)
    return [Message.parse(bytes(one.value)) for one in message if one.number == 14]


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(1, 9), st.integers(0, 5)), min_size=1),
    st.integers(0, 1 << 40),
)
def test_without_a_change_it_is_put_together_byte_for_byte(
    rows: list[tuple[int, int, int]], later: int
) -> None:
    made = [vma(at << 12, at + size << 12, f9=advice, f77=5) for at, size, advice in rows]
    data = image(*made, later=later)
    space = AddressSpace.decode(data, "mm-1.img")
    assert [(one.start >> 12, one.pages, one.madv) for one in space.vmas] == rows
    assert space.exe == 12 << 12
    assert space.encode() == data


def test_an_area_becomes_a_file_mapping_and_keeps_what_is_not_known() -> None:
    data = image(vma(), vma(0x30000, 0x40000, f9=1 << 14, f77=5), later=3)
    space = AddressSpace.decode(data, "mm-1.img")
    space.vmas[1] = space.vmas[1].as_file_mapping(7, 0x5000)
    first, second = areas(space.encode())
    assert first.encode() == vma().encode()
    values = {one.number: one.value for one in second}
    assert values == {
        1: 0x30000,
        2: 0x40000,
        3: 0x5000,
        4: 7,
        5: 3,
        6: mm.MAP_PRIVATE,
        7: mm.REGULAR | mm.FILE_PRIVATE,
        8: 1,
        9: 1 << 14,
        10: 0,
        77: 5,
    }


@pytest.mark.parametrize("kind", [0, mm.HEAP])
def test_a_file_mapping_becomes_anonymous_again(kind: int) -> None:
    mapped = vma(f3=0x5000, f4=7, f6=mm.MAP_PRIVATE, f7=mm.REGULAR | mm.FILE_PRIVATE, f10=0)
    space = AddressSpace.decode(image(mapped), "mm-1.img")
    space.vmas[0] = space.vmas[0].as_anonymous(heap=kind == mm.HEAP)
    (found,) = areas(space.encode())
    assert found.encode() == vma(f7=ANON | kind).encode()


def test_the_heap_is_where_brk_puts_it() -> None:
    data = image(vma(0x5000, 0x6000), vma(0x6000, 0x9000), vma(0x9000, 0xA000))
    space = AddressSpace.decode(data, "mm-1.img")
    assert space.brk == (0x6000, 0x7000)
    assert [space.is_heap(one) for one in space.vmas] == [False, True, False]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (image(), "lists no memory areas"),
        (image(Message()), "lacks field 1"),
        (image(vma(0x2000, 0x1000)), "from 0x2000 to 0x1000"),
        (image(vma(0x1001, 0x2000)), "from 0x1001"),
        (image(vma())[:-2], "truncated"),
        (HEADER, "found 0 entries of type mm"),
        (struct.pack("<II", images.COMMON_MAGIC, images.PSTREE), "of type pstree"),
        (struct.pack("<II", images.COMMON_MAGIC, 0x12345678), "0x12345678"),
    ],
)
def test_what_is_no_address_space_is_told(data: bytes, told: str) -> None:
    with pytest.raises(Broken, match=told):
        AddressSpace.decode(data, "mm-1.img")
