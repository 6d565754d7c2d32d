from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.criu import images
from shim.criu.images import Entry, Image
from shim.criu.wire import Message
from shim.errors import Broken


def message(**fields: int) -> bytes:
    out = Message()
    for key, value in fields.items():
        out.set_uint(int(key[1:]), value)
    return out.encode()


def image(magic: int, entries: list[Entry]) -> bytes:
    header = struct.pack("<II", images.COMMON_MAGIC, magic)
    return images.encode(Image(header, magic, entries))


plain = sorted(set(images.NAMES) - set(images._WITH_DATA))


@given(st.sampled_from(plain), st.lists(st.lists(st.integers(0, 1 << 32), max_size=3), max_size=4))
def test_any_image_without_data_is_put_together_again(magic: int, rows: list[list[int]]) -> None:
    entries = []
    for row in rows:
        entry = Message()
        entry.set_uints(1, row)
        entries.append(Entry(entry.encode()))
    data = image(magic, entries)
    decoded = images.decode(data, "x.img")
    assert decoded.entries == entries
    assert images.encode(decoded) == data


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_kept_exactly_or_are_broken(tail: bytes) -> None:
    for magic in (images.FILES, images.TCP_STREAM, images.GHOST_FILE, images.IPCNS_MSG):
        data = struct.pack("<II", images.COMMON_MAGIC, magic) + tail
        with contextlib.suppress(Broken):
            assert images.encode(images.decode(data, "x.img")) == data


def test_the_inventory_has_no_common_magic() -> None:
    data = struct.pack("<I", images.INVENTORY) + struct.pack("<I", 2) + message(f1=2)
    decoded = images.decode(data, "inventory.img")
    assert decoded.magic == images.INVENTORY
    assert decoded.entries == [Entry(message(f1=2))]
    assert images.encode(decoded) == data


@pytest.mark.parametrize(
    ("magic", "entries"),
    [
        (images.TCP_STREAM, [Entry(message(f1=3, f3=4), b"inqoutq")]),
        (images.PIPES_DATA, [Entry(message(f1=9, f2=2), b"ab"), Entry(message(f1=8, f2=1), b"c")]),
        (images.FIFO_DATA, [Entry(message(f1=9, f2=2), b"ab"), Entry(message(f1=8, f2=0))]),
        (
            images.SK_QUEUES,
            [Entry(message(f1=1, f2=5), b"hello"), Entry(message(f2=1), b"x")],
        ),
        (images.GHOST_FILE, [Entry(message(f1=0, f2=0, f3=0o644), b"everything else")]),
        (
            images.GHOST_FILE,
            [
                Entry(message(f3=0o644, f9=1)),
                Entry(message(f1=3, f2=0), b"abc"),
                Entry(message(f1=2, f2=8192), b"de"),
            ],
        ),
        (
            images.IPCNS_SEM,
            [Entry(message(f2=3), b"aabbcc\0\0"), Entry(message(f2=1), b"1" * 8)],
        ),
        (images.IPCNS_SHM, [Entry(message(f2=5), b"12345\0\0\0"), Entry(message(f2=4096, f3=1))]),
        (images.BPFMAP_DATA, [Entry(message(f1=1, f2=2, f3=3), b"kkvvv")]),
    ],
)
def test_the_data_of_each_type_follows_its_message(magic: int, entries: list[Entry]) -> None:
    data = image(magic, entries)
    decoded = images.decode(data, "x.img")
    assert decoded.entries == entries
    assert images.encode(decoded) == data
    with pytest.raises(Broken, match=r"x\.img"):
        # One byte of the data too few, or, where there is none, one byte that is no entry.
        images.decode(data[:-1] if magic != images.GHOST_FILE else data[:9], "x.img")


def test_messages_of_a_system_v_queue_have_headers_of_their_own() -> None:
    header = message(f1=7, f2=3)
    data = (struct.pack("<I", len(header)) + header + b"abc" + b"\0" * 5) * 2
    raw = image(images.IPCNS_MSG, [Entry(message(f2=6, f3=2), data), Entry(message(f3=0))])
    decoded = images.decode(raw, "ipcns-msg-9.img")
    assert [entry.data for entry in decoded.entries] == [data, b""]
    assert images.encode(decoded) == raw
    with pytest.raises(Broken, match="truncated"):
        images.decode(image(images.IPCNS_MSG, [Entry(message(f3=2), data[:20])]), "x.img")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "truncated: wanted at least 4 bytes, found 0 bytes"),
        (struct.pack("<I", images.COMMON_MAGIC), "truncated: wanted at least 8 bytes"),
        (b"\x7fELF0000", "no CRIU image of a known type: its magic number is 0x464c457f"),
        (struct.pack("<II", images.COMMON_MAGIC, 1), "0x00000001"),
        (image(images.FILES, []) + b"\1\0\0", "truncated"),
        (image(images.FILES, []) + b"\5\0\0\0abc", "wanted at least 17 bytes, found 15 bytes"),
        (image(images.TCP_STREAM, [Entry(b"\x08")]), "damaged"),
    ],
)
def test_a_damaged_image_is_broken_and_says_how(data: bytes, what: str) -> None:
    with pytest.raises(Broken, match=what) as caught:
        images.decode(data, "some.img")
    assert str(caught.value).startswith("some.img ")
