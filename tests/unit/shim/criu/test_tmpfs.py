from __future__ import annotations

import gzip
import io
import stat
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.criu import images, tmpfs
from shim.criu.images import Entry, Image
from shim.criu.wire import Message

DEVICE = 68
NAME = "mountpoints-13.img"


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, 0o755, 1795526396
    for key, value in values.items():
        setattr(info, key, value)
    return info


TOP = member(".", tarfile.DIRTYPE, mode=0o1777)


def archive(*members: tarfile.TarInfo) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for one in members:
            tar.addfile(one, io.BytesIO(bytes(one.size)))
    return gzip.compress(whole.getvalue())


DEV = archive(
    TOP,
    member("./pts", tarfile.DIRTYPE),
    member("./null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666, uid=5, gid=6),
    member("./fd", tarfile.SYMTYPE, linkname="/proc/self/fd", mode=0o777),
    member("./pts/log"),
    member("./fifo", tarfile.FIFOTYPE),
)


def mount(number: int, **changes: int | str) -> Message:
    """A mount entry as CRIU writes it."""
    values: dict[int, int | str] = {
        1: 5, 2: number, 3: DEVICE, 4: 1, 5: 0, 6: "/", 7: "/dev", 8: "tmpfs", 9: "mode=755", 17: 1,
    }  # fmt: skip
    values |= {int(key.removeprefix("f")): value for key, value in changes.items()}
    message = Message()
    for key, value in sorted(values.items()):
        if isinstance(value, str):
            message.set_bytes(key, value.encode())
        else:
            message.set_uint(key, value)
    return message


def image(*mounts: Message) -> bytes:
    header = (images.COMMON_MAGIC).to_bytes(4, "little") + images.MOUNTPOINTS.to_bytes(4, "little")
    entries = [Entry(one.encode()) for one in mounts]
    return images.encode(Image(header, images.MOUNTPOINTS, entries))


def read(data: bytes) -> list[Message]:
    return [Message.parse(one.message) for one in images.decode(data, NAME).entries]


def test_the_files_of_a_dev() -> None:
    found = tmpfs.content(DEV)
    assert found is not None
    by_path = {one.path: one for one in found}
    assert list(by_path) == ["", "pts", "null", "fd", "pts/log", "fifo"]
    assert by_path[""].mode == stat.S_IFDIR | 0o1777
    null = by_path["null"]
    assert (null.mode, null.device) == (stat.S_IFCHR | 0o666, [1, 3])
    assert (null.owner, null.group, null.modified) == (5, 6, 1795526396.0)
    assert (by_path["fd"].target, stat.S_ISLNK(by_path["fd"].mode)) == ("/proc/self/fd", True)
    assert stat.S_ISFIFO(by_path["fifo"].mode)
    assert by_path["pts/log"].mode == stat.S_IFREG | 0o755


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8b damaged",
        DEV[:-12],
        gzip.compress(b"no archive" * 100),
        gzip.compress(bytes(2 << 20)),
        archive(member("./a")),
        archive(TOP, member("./a", size=1)),
        archive(TOP, member("./a", tarfile.LNKTYPE, linkname="b")),
        archive(TOP, member("./../a")),
        archive(TOP, member("/a")),
        archive(TOP, member("./b/a")),
        archive(TOP, member("./b", tarfile.SYMTYPE, linkname="/etc"), member("./b/a")),
        archive(TOP, member("./a"), member("./a")),
        archive(TOP, *(member(f"./{number}") for number in range(300))),
        archive(TOP) + bytes(70 << 10),
    ],
    ids=[
        *("empty", "no gzip", "cut off", "no tar", "large", "no top", "a file with content"),
        *("a hard link", "outside", "absolute", "no folder", "through a link", "twice", "many"),
        "packed large",
    ],
)
def test_what_is_left_to_tar(data: bytes) -> None:
    assert tmpfs.content(data) is None


@given(st.binary(max_size=400))
def test_any_bytes_are_left_to_tar(data: bytes) -> None:
    assert tmpfs.content(data) is None
    assert tmpfs.content(gzip.compress(data)) is None


def test_the_first_mount_of_a_tmpfs_becomes_external() -> None:
    before = image(mount(104), mount(107), mount(141, f1=2, f3=99), mount(144, f3=70))
    after, made = tmpfs.take_out(before, NAME, {DEVICE: DEV, 70: archive(TOP)})
    keys = [one.text(18) for one in read(after)]
    assert keys == ["podthaw-tmpfs-104", "", "", "podthaw-tmpfs-144"]
    assert [one.key for one in made] == ["podthaw-tmpfs-104", "podthaw-tmpfs-144"]
    assert (made[0].source, made[0].options, made[0].flags) == ("tmpfs", "mode=755", 1)
    assert made[0].entries == tmpfs.content(DEV)
    without = read(after)
    for message in without:
        message.remove(18)
    assert [one.encode() for one in without] == [one.encode() for one in read(before)]


@pytest.mark.parametrize(
    "other",
    [
        {"f1": 2},
        {"f6": "/sub"},
        {"f12": 1},
        {"f13": 1},
        {"f18": "/dev"},
        {"f9": "mode=755,context=system_u:object_r:tmp_t:s0"},
    ],
    ids=["proc", "a part", "a plugin's", "external once", "external", "labelled"],
)
def test_other_mounts_stay(other: dict[str, int | str]) -> None:
    data = image(mount(104, **other))
    assert tmpfs.devices(data, NAME) == []
    assert tmpfs.take_out(data, NAME, {DEVICE: DEV}) == (data, [])


def test_one_that_is_not_simple_stays() -> None:
    data = image(mount(104))
    assert tmpfs.devices(data, NAME) == [DEVICE]
    assert tmpfs.image_of(DEVICE) == "tmpfs-dev-68.tar.gz.img"
    assert tmpfs.take_out(data, NAME, {DEVICE: b"damaged"}) == (data, [])
    assert tmpfs.take_out(data, NAME, {}) == (data, [])
