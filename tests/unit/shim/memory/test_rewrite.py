"""Changes to the lists of files and mounts; with whole dumps they are tested in test_mapping.py."""

from __future__ import annotations

import struct

import pytest

from shim.criu import images
from shim.criu.images import Entry, Image
from shim.criu.wire import Message
from shim.errors import Broken
from shim.memory import rewrite

POINT = b"/.podthaw-pages"


def image(magic: int, *messages: Message) -> bytes:
    header = struct.pack("<II", images.COMMON_MAGIC, magic)
    return images.encode(Image(header, magic, [Entry(one.encode()) for one in messages]))


def message(**fields: int | bytes | Message) -> Message:
    """``message(f1=2)``: a message with field 1."""
    out = Message()
    for key, value in fields.items():
        number = int(key[1:])
        if isinstance(value, Message):
            out.set_message(number, value)
        elif isinstance(value, int):
            out.set_uint(number, value)
        else:
            out.set_bytes(number, value)
    return out


def mounts(data: bytes) -> dict[bytes, Message]:
    entries = [Message.parse(entry.message) for entry in images.decode(data, "m").entries]
    return {one.blob(7): one for one in entries}


ROOT = message(f1=0, f2=10, f3=77, f4=0, f5=0, f6=b"/", f7=b"/", f8=b"overlay", f9=b"")


def test_the_file_of_earlier_memory_is_known_by_its_name_or_as_external() -> None:
    data = image(
        images.FILES,
        message(f1=1, f2=3, f3=message(f1=3, f6=b"/bin/sh")),
        message(f1=1, f2=4, f3=message(f1=4, f6=POINT)),
        message(f1=1, f2=5, f3=message(f1=5, f6=b"file[4d:c0ffee]", f9=1)),
        message(f1=1, f2=6, f3=message(f1=6, f6=POINT + b"-too", f9=0)),
        message(f1=2, f2=7),
    )
    assert rewrite.pages_files(data) == {4, 5}


def test_a_mount_is_added_below_the_root() -> None:
    data, number = rewrite.add_mount(image(images.MOUNTPOINTS, ROOT), [10, 40], "m")
    found = mounts(data)
    assert number == found[POINT].uint(2) == 41
    assert found[POINT].uint(4) == 10
    assert found[POINT].blob(18) == POINT
    assert found[POINT].uint(5) & 1  # MS_RDONLY
    assert found[POINT].uint(3) != 77
    assert found[b"/"].encode() == ROOT.encode()


def test_a_mount_whose_file_was_removed_is_made_anew() -> None:
    """CRIU would make and remove the source of a mount that is marked as deleted."""
    old = message(
        f1=0, f2=40, f3=88, f4=10, f5=1, f6=b"/x/pages", f7=POINT, f8=b"/dev/vda", f9=b"", f11=3,
        f16=1,
    )  # fmt: skip
    data, number = rewrite.add_mount(image(images.MOUNTPOINTS, old, ROOT), [10, 40], "m")
    found = mounts(data)
    assert (number, len(found)) == (40, 2)
    assert (found[POINT].uint(16), found[POINT].uint(11)) == (0, 0)
    assert found[POINT].blob(18) == POINT
    assert mounts(rewrite.remove_mount(data, "m")).keys() == {b"/"}


def test_mounts_without_a_root_are_broken() -> None:
    with pytest.raises(Broken, match="m has no root mount"):
        rewrite.add_mount(image(images.MOUNTPOINTS), [], "m")
