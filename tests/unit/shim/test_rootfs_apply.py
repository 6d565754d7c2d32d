"""A writable layer brought into a tree; hostile archives."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim import rootfs, rootfs_apply
from shim.errors import Broken, Unfit
from tests.unit.shim.tars import Tar

ROOT = os.geteuid() == 0


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """An image's tree: etc/{a,b}, usr/lib/{x,y}, link → /outside-of-everything."""
    tree = tmp_path / "top"
    (tree / "etc").mkdir(parents=True)
    (tree / "usr/lib").mkdir(parents=True)
    for name in ("etc/a", "etc/b", "usr/lib/x", "usr/lib/y"):
        (tree / name).write_text("image")
    (tree / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    return tree


@pytest.fixture
def tar(tmp_path: Path) -> Iterator[Tar]:
    archive = Tar(tmp_path / "rootfs.tar")
    yield archive
    archive.done()


def test_new_changed_and_deleted(top: Path, tar: Tar) -> None:
    tar.add("etc").add("etc/a", b"changed", mode=0o4750, mtime=1234567890)
    tar.add("etc/.wh.b", b"").add("new").add("new/file", b"n" * 100_000)
    tar.add("usr/lib").add("usr/lib/.wh..wh..opq", b"").add("usr/lib/x", b"mine")
    tar.link("new/up", "../etc/a").hard("new/same", "etc/a")
    tar.add("new/pipe", b"", type=tarfile.FIFOTYPE, mode=0o600)
    rootfs_apply.apply(tar.done(), str(top))
    status = (top / "etc/a").stat()
    assert (top / "etc/a").read_text() == "changed"
    assert (stat.S_IMODE(status.st_mode), status.st_mtime, status.st_nlink) == (
        0o4750, 1234567890, 2,
    )  # fmt: skip
    assert not (top / "etc/b").exists()
    assert (top / "new/file").stat().st_size == 100_000
    assert sorted(path.name for path in (top / "usr/lib").iterdir()) == ["x"]
    assert (top / "usr/lib/x").read_text() == "mine"
    assert (top / "new/up").readlink() == Path("../etc/a")
    assert (top / "new/same").samefile(top / "etc/a")
    assert stat.S_ISFIFO((top / "new/pipe").stat().st_mode)


def test_deletions_come_first_whatever_the_order(top: Path, tar: Tar) -> None:
    tar.add("etc/b", b"new").add("etc/.wh.b", b"").add("etc/.wh..wh..opq", b"")
    rootfs_apply.apply(tar.done(), str(top))
    assert (top / "etc/b").read_text() == "new"
    assert not (top / "etc/a").exists()


def test_types_change_places(top: Path, tar: Tar) -> None:
    tar.add("etc", b"a file now").add("usr/lib/x").add("usr/lib/x/in", b"1").link("usr/lib/y", "x")
    tar.add("link").add("link/in", b"2")
    rootfs_apply.apply(tar.done(), str(top))
    assert (top / "etc").read_text() == "a file now"
    assert (top / "usr/lib/x/in").read_text() == "1"
    assert (top / "usr/lib/y").is_symlink()
    assert (top / "link/in").read_text() == "2"
    assert not (top / "link").is_symlink()
    assert [path.name for path in (top.parent / "outside").iterdir()] == ["kept"]


def test_times_of_directories_and_nanoseconds(top: Path, tar: Tar) -> None:
    headers = {"mtime": "1500000000.123456789"}
    tar.add("d", pax_headers=headers).add("d/f", b"", pax_headers=headers)
    tar.add("old", b"", mtime=-5)
    rootfs_apply.apply(tar.done(), str(top))
    for name in ("d", "d/f"):
        assert (top / name).stat().st_mtime_ns == 1500000000_123456789
    assert (top / "old").stat().st_mtime == -5


@pytest.mark.skipif(not ROOT, reason="ownership and capabilities need root")
def test_owner_attributes_and_capabilities(top: Path, tar: Tar) -> None:
    capability = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    headers = {
        "SCHILY.xattr.user.name": "value",
        "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.security.selinux": "system_u:object_r:x:s0",
    }
    tar.add("f", b"x", uid=1234, gid=5678, mode=0o6755, pax_headers=headers)
    tar.link("l", "f").add("d", uid=99, gid=98)
    rootfs_apply.apply(tar.done(), str(top))
    status = (top / "f").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 5678, 0o6755)
    assert os.getxattr(top / "f", "user.name") == b"value"
    assert os.getxattr(top / "f", "security.capability") == capability
    assert ((top / "d").stat().st_uid, (top / "d").stat().st_gid) == (99, 98)


@pytest.mark.parametrize("attribute", ["trusted.overlay.opaque", "trusted.x", "user.overlay.opaque",
                                       "system.other"])  # fmt: skip
def test_attributes_that_mean_something_to_others_are_refused(
    top: Path, tar: Tar, attribute: str
) -> None:
    tar.add("f", b"x", pax_headers={f"SCHILY.xattr.{attribute}": "y"})
    with pytest.raises(Broken, match=attribute):
        rootfs_apply.apply(tar.done(), str(top))


@pytest.mark.skipif(not ROOT, reason="devices need root")
def test_devices_only_where_the_container_may_make_them(top: Path, tar: Tar) -> None:
    tar.add("null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    archive = tar.done()
    with pytest.raises(Broken, match="CAP_MKNOD"):
        rootfs_apply.apply(archive, str(top))
    rootfs_apply.apply(archive, str(top), devices=True)
    status = (top / "null").stat()
    assert stat.S_ISCHR(status.st_mode)
    assert (status.st_rdev, stat.S_IMODE(status.st_mode)) == (os.makedev(1, 3), 0o666)


HOSTILE = {
    "absolute": lambda tar: tar.add("/etc/x", b""),
    "up": lambda tar: tar.add("a/../../x", b""),
    "through a link of the image": lambda tar: tar.add("link/x", b"bad"),
    "through a link of its own": lambda tar: tar.link("own", "../outside").add("own/x", b"bad"),
    "through a link to the parent": lambda tar: tar.link("p", "..").add("p/outside/x", b"bad"),
    "hard link out": lambda tar: tar.hard("h", "../outside/kept"),
    "hard link absolute": lambda tar: tar.hard("h", "/etc/passwd"),
    "hard link through a link": lambda tar: tar.hard("h", "link/kept"),
    "hard link to nothing": lambda tar: tar.hard("h", "absent"),
    "hard link to a directory": lambda tar: tar.hard("h", "etc"),
    "hard link to itself": lambda tar: tar.hard("etc/a", "etc/a"),
    "a deletion of the parent": lambda tar: tar.add(".wh...", b""),
    "a deletion of itself": lambda tar: tar.add("etc/.wh..", b""),
    "a deletion of nothing": lambda tar: tar.add("etc/.wh.", b""),
    "a file in a deletion": lambda tar: tar.add(".wh.etc/x", b""),
    "an odd mark": lambda tar: tar.add("etc/.wh..wh.plnk", b""),
    "0:0": lambda tar: tar.add("w", b"", type=tarfile.CHRTYPE, devmajor=0, devminor=0),
    "the top as a file": lambda tar: tar.add("./", b"x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_change_nothing_outside(top: Path, tar: Tar, name: str) -> None:
    HOSTILE[name](tar)
    outside = top.parent / "outside"
    before = (outside / "kept").stat()
    with pytest.raises(Broken):
        rootfs_apply.apply(tar.done(), str(top), devices=True)
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "kept"
    assert (outside / "kept").stat().st_nlink == before.st_nlink


def test_a_deletion_through_a_link_deletes_nothing(top: Path, tar: Tar) -> None:
    tar.add("link/.wh.kept", b"").add("link/.wh..wh..opq", b"")
    rootfs_apply.apply(tar.done(), str(top))
    assert (top.parent / "outside/kept").exists()


@pytest.mark.parametrize("damage", [b"", b"no archive at all" * 100])
def test_a_damaged_archive(top: Path, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "bad.tar").write_bytes(damage)
    with pytest.raises(Broken, match="damaged"):
        rootfs_apply.apply(str(tmp_path / "bad.tar"), str(top))


def test_an_archive_that_ends_too_soon(top: Path, tar: Tar) -> None:
    tar.add("big", b"x" * 500_000)
    path = Path(tar.done())
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(Broken):
        rootfs_apply.apply(str(path), str(top))


def test_no_room_left_is_unfit(tmp_path: Path, tar: Tar) -> None:
    if not ROOT:
        pytest.skip("mounting needs root")
    tar.add("big", os.urandom(300_000))
    archive, target = tar.done(), tmp_path / "small"
    target.mkdir()
    code = (
        "import sys; from shim import rootfs_apply, errors\n"
        "try: rootfs_apply.apply(sys.argv[1], sys.argv[2])\n"
        "except errors.Unfit as error: print(error)"
    )
    script = f'mount -t tmpfs -o size=64k none {target} && exec python3 -c "$0" "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, code, archive, str(target)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "there is no room left" in done.stdout


def test_the_clock_can_stop_it(top: Path, tar: Tar) -> None:
    tar.add("a", b"").add("b", b"")
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise Unfit("too slow")

    with pytest.raises(Unfit, match="too slow"):
        rootfs_apply.apply(tar.done(), str(top), tick)


def test_holes_stay_holes(tmp_path: Path, top: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(40 << 20)
        file.write(b"tail")
    rootfs.pack_folder(source, tmp_path / "r.tar")
    rootfs_apply.apply(str(tmp_path / "r.tar"), str(top))
    copy = top / "sparse"
    assert copy.stat().st_size == (40 << 20) + 4
    assert copy.stat().st_blocks * 512 < 20 << 20
    with copy.open("rb") as file:
        assert file.read(4) == b"head"
        file.seek(40 << 20)
        assert file.read() == b"tail"


PLAIN = ["a", "b", "a/b", "b/a", "../x", "/y", "link", "link/kept", ".", "etc", "etc/a"]
MARKS = [".wh.a", "a/.wh.b", ".wh..wh..opq", "a/.wh..wh..opq"]
NAMES = st.sampled_from([*PLAIN, *MARKS])
ENTRIES = st.tuples(NAMES, st.sampled_from(["file", "dir", "link", "hard", "fifo"]), NAMES)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(ENTRIES, max_size=8))
def test_no_archive_reaches_outside(tmp_path: Path, entries: list[tuple[str, str, str]]) -> None:
    number = len(list(tmp_path.iterdir()))
    base = tmp_path / f"case{number}"
    (base / "top/etc").mkdir(parents=True)
    (base / "outside").mkdir()
    (base / "outside/kept").write_text("kept")
    (base / "top/link").symlink_to("../outside")
    tar = Tar(base / "t.tar")
    for name, kind, other in entries:
        if kind == "link":
            tar.link(name, f"../{other}")
        elif kind == "hard":
            tar.hard(name, other)
        elif kind == "fifo":
            tar.add(name, b"", type=tarfile.FIFOTYPE)
        else:
            tar.add(name, b"data" if kind == "file" else None)
    archive = tar.done()
    with suppress(Broken, Unfit):
        rootfs_apply.apply(archive, str(base / "top"))
    assert sorted(path.name for path in base.iterdir()) == ["outside", "t.tar", "top"]
    assert [path.name for path in (base / "outside").iterdir()] == ["kept"]
    assert (base / "outside/kept").stat().st_nlink == 1
