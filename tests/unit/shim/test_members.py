"""Archives whose headers no honest packer writes: each is damage, with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim import rootfs_apply, shm
from shim.errors import Broken, Unfit


def number(value: int, length: int) -> bytes:
    """A number of a header in GNU's base-256, which can be negative or huge."""
    sign = b"\xff" if value < 0 else b"\x80"
    return sign + (value & (1 << 8 * (length - 1)) - 1).to_bytes(length - 1, "big")


def header(kind: bytes = b"0", **fields: bytes) -> bytes:
    """One header block; a field is given as it stands in the block."""
    plain = {"mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0",
             "size": b"%011o\0" % 0, "mtime": b"%011o\0" % 0, "link": b"", "name": b"x",
             "major": b"0000000\0", "minor": b"0000000\0"}  # fmt: skip
    part = plain | fields
    before = part["name"].ljust(100, b"\0") + part["mode"] + part["uid"] + part["gid"]
    before += part["size"] + part["mtime"]
    after = kind + part["link"].ljust(100, b"\0") + b"ustar\x0000" + bytes(64)
    after += part["major"] + part["minor"] + bytes(167)
    total = sum(before) + 8 * 32 + sum(after)
    return before + b"%06o\0 " % total + after


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """PAX records for the member that follows."""
    out = b""
    for key, value in records:
        body = b" " + key + b"=" + value + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        out += b"%d" % length + body
    return header(kind, size=b"%011o\0" % len(out)) + out.ljust(-(-len(out) // 512) * 512, b"\0")


SPARSE = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"x"))
BLOCK = b"%011o\0" % 1024
END = bytes(1024)

DAMAGED = {
    "a size that leads back": header(size=number(-1024, 12)) * 2,
    "a size beyond all files": header(size=number(1 << 62, 12)),
    "a negative size by PAX": pax((b"size", b"-512")) + header(),
    "an owner that no kernel has": header(uid=number(1 << 40, 8)),
    "the owner that means none": header(gid=number((1 << 32) - 1, 8)),
    "a negative owner": header(uid=number(-2, 8)),
    "a time beyond all clocks": header(mtime=number(1 << 80, 12)),
    "a time that is no number": pax((b"mtime", b"nan")) + header(),
    "a time without end": pax((b"mtime", b"1e400")) + header(),
    "a time of many digits": pax((b"mtime", b"9" * 5000)) + header(),
    "a path by PAX that leads out": pax((b"path", b"../evil")) + header(),
    "a path for all that leads out": pax((b"path", b"../evil"), kind=b"g") + header(),
    "a path with a zero byte": pax((b"path", b"a\0b")) + header(),
    "a link with a zero byte": pax((b"linkpath", b"a\0b")) + header(b"2"),
    "an attribute with a zero byte": pax((b"SCHILY.xattr.user.a\0b", b"1")) + header(),
    "an attribute without a name": pax((b"SCHILY.xattr.", b"1")) + header(),
    "a name that no file can have": pax((b"path", b"n" * 5000)) + header(),
    "a map of holes that is text": pax(*SPARSE) + header(size=BLOCK) + b"abc\n".ljust(1024, b"\0"),
    "a map of holes in disorder": pax(*SPARSE, (b"GNU.sparse.realsize", b"9")) + header(size=BLOCK)
    + b"2\n5\n1\n0\n1\n".ljust(1024, b"\0"),
    "a map of holes beyond the end": pax(*SPARSE, (b"GNU.sparse.realsize", b"9"))
    + header(size=BLOCK) + b"1\n8\n512\n".ljust(1024, b"\0"),
    "an old map of holes that is text": pax((b"GNU.sparse.map", b"0,1,x")) + header(),
    "a long name without end": header(b"L", size=number(1 << 62, 12)),
    "a long name of negative length": header(b"L", size=number(-512, 12)),
    "PAX records of negative length": header(b"x", size=number(-512, 12)),
    "a type that is none": header(b"Z"),
    "a device of impossible number": header(b"3", major=number(-1, 8), minor=number(1 << 40, 8)),
    "a hard link that leads out": header(b"1", link=b"../../etc/passwd"),
    "a file in place of the top": header(name=b"./"),
    "nothing at all": b"",
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("part", ["rootfs", "shm"])
def test_damage(tmp_path: Path, part: str, what: str) -> None:
    archive, top = tmp_path / "a.tar", tmp_path / "top"
    top.mkdir()
    archive.write_bytes(DAMAGED[what] + (END if DAMAGED[what] else b""))
    shared = shm.Shared(source=str(top), staging=".staging")
    unpack = {
        "rootfs": lambda: rootfs_apply.apply(str(archive), str(top), devices=True),
        "shm": lambda: shm.extract(str(archive), shared, {}, lambda: None),
    }
    with pytest.raises(Broken) as caught:
        unpack[part]()
    assert len(str(caught.value)) < 500
    if part == "shm":
        shm.take_back(shared)
        assert list(top.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "top"]


@pytest.mark.parametrize("attribute", [b"user.", b"security.capability"])
def test_an_attribute_that_the_file_system_does_not_take(tmp_path: Path, attribute: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(pax((b"SCHILY.xattr." + attribute, b"odd")) + header() + END)
    (tmp_path / "top").mkdir()
    with pytest.raises(Unfit, match=f"the attribute '{attribute.decode()}' .* cannot be set here"):
        rootfs_apply.apply(str(tmp_path / "a.tar"), str(tmp_path / "top"))


def test_a_file_of_holes_costs_nothing_and_one_beyond_the_file_system_is_unfit(
    tmp_path: Path,
) -> None:
    for size in (40 << 30, 1 << 61):
        records = pax(*SPARSE, (b"GNU.sparse.realsize", b"%d" % size))
        table = b"1\n%d\n1\n" % (7 << 20)
        (tmp_path / "a.tar").write_bytes(
            records + header(size=BLOCK) + table.ljust(512, b"\0") + b"a".ljust(512, b"\0") + END
        )
        top = tmp_path / f"top{size}"
        top.mkdir()
        if size == 1 << 61:
            with pytest.raises(Unfit, match="File too large"):
                rootfs_apply.apply(str(tmp_path / "a.tar"), str(top))
            continue
        rootfs_apply.apply(str(tmp_path / "a.tar"), str(top))
        assert (top / "x").stat().st_size == size
        assert (top / "x").stat().st_blocks * 512 < 1 << 20
        with (top / "x").open("rb") as file:
            file.seek(7 << 20)
            assert file.read(2) == b"a\0"
