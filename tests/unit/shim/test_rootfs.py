from __future__ import annotations

import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import mounts, rootfs
from shim.errors import Unfit
from shim.rootfs import Overlay


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    for name in ("upper", "merged"):
        (tmp_path / name).mkdir()
    return Overlay(merged=tmp_path / "merged", upper=tmp_path / "upper", prefix="trusted.overlay.")


def packed(overlay: Overlay, *skip: str) -> dict[str, tarfile.TarInfo]:
    target = overlay.upper.parent / "layer.tar"
    rootfs.pack(overlay, target, skip)
    with tarfile.open(target, errors="surrogateescape") as tar:
        return {entry.name: entry for entry in tar}


def content(overlay: Overlay, name: str) -> bytes:
    with tarfile.open(overlay.upper.parent / "layer.tar", errors="surrogateescape") as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def test_an_empty_layer_leaves_no_file(overlay: Overlay, tmp_path: Path) -> None:
    assert rootfs.pack(overlay, tmp_path / "layer.tar") == 0
    assert not (tmp_path / "layer.tar").exists()


def test_files_with_all_they_have(overlay: Overlay) -> None:
    file = overlay.upper / "d/file"
    file.parent.mkdir(mode=0o750)
    file.write_bytes(b"content")
    os.chown(file, 1234, 5678)
    file.chmod(0o4751)
    os.setxattr(file, "user.binary", b"\x00\xff=\n")
    os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    (overlay.upper / "d/link").symlink_to("/no/where")
    os.link(file, overlay.upper / "d/second")
    os.mkfifo(overlay.upper / "d/fifo")
    os.mknod(overlay.upper / "d/zero", 0o020666, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(overlay.upper / "d/socket"))
    entries = packed(overlay)

    assert list(entries) == ["d", "d/fifo", "d/file", "d/link", "d/second", "d/zero"]
    entry = entries["d/file"]
    assert (entry.mode, entry.uid, entry.gid, entry.size) == (0o4751, 1234, 5678, 7)
    assert entry.pax_headers["mtime"] == "1700000000.123456789"
    assert os.fsencode(entry.pax_headers["SCHILY.xattr.user.binary"]) == b"\x00\xff=\n"
    assert entries["d"].isdir()
    assert entries["d"].mode == 0o750
    assert entries["d/link"].linkname == "/no/where"
    assert entries["d/second"].islnk()
    assert entries["d/second"].linkname == "d/file"
    assert entries["d/fifo"].isfifo()
    assert (entries["d/zero"].devmajor, entries["d/zero"].devminor) == (1, 5)
    assert content(overlay, "d/file") == b"content"


def test_deletions(overlay: Overlay) -> None:
    (overlay.upper / "etc").mkdir()
    os.mknod(overlay.upper / "etc/gone", 0o020000, 0)
    (overlay.upper / "marked").write_text("")
    os.setxattr(overlay.upper / "marked", "trusted.overlay.whiteout", b"y")
    (overlay.upper / "opaque").mkdir()
    os.setxattr(overlay.upper / "opaque", "trusted.overlay.opaque", b"y")
    (overlay.upper / "opaque/new").write_text("x")
    entries = packed(overlay)
    assert set(entries) == {
        "etc",
        "etc/.wh.gone",
        ".wh.marked",
        "opaque",
        "opaque/.wh..wh..opq",
        "opaque/new",
    }
    names = list(entries)
    assert names.index("opaque/.wh..wh..opq") < names.index("opaque/new")
    assert not any("overlay" in key for entry in entries.values() for key in entry.pax_headers)


def test_the_other_prefix_of_overlay(tmp_path: Path) -> None:
    (tmp_path / "upper/d").mkdir(parents=True)
    os.setxattr(tmp_path / "upper/d", "user.overlay.opaque", b"y")
    overlay = Overlay(merged=tmp_path, upper=tmp_path / "upper", prefix="user.overlay.")
    entries = packed(overlay)
    assert list(entries) == ["d", "d/.wh..wh..opq"]
    assert entries["d"].pax_headers == {} or "mtime" in entries["d"].pax_headers


def test_a_renamed_folder_is_taken_whole_from_the_merged_view(overlay: Overlay) -> None:
    (overlay.upper / "new/sub").mkdir(parents=True)
    os.setxattr(overlay.upper / "new", "trusted.overlay.redirect", b"/old")
    (overlay.merged / "new/sub").mkdir(parents=True)
    (overlay.merged / "new/sub/kept").write_text("from below")
    (overlay.merged / "new/kept").write_text("from below")
    assert list(packed(overlay)) == [
        "new",
        "new/.wh..wh..opq",
        "new/kept",
        "new/sub",
        "new/sub/kept",
    ]


def test_a_file_of_which_only_the_metadata_was_copied_up(overlay: Overlay) -> None:
    (overlay.upper / "file").write_text("")
    os.setxattr(overlay.upper / "file", "trusted.overlay.metacopy", b"")
    (overlay.upper / "file").chmod(0o604)
    (overlay.merged / "file").write_text("content below")
    entries = packed(overlay)
    assert entries["file"].mode == 0o604
    assert content(overlay, "file") == b"content below"


def test_mount_points_of_the_runtime_are_left_out_while_empty(overlay: Overlay) -> None:
    (overlay.upper / "etc").mkdir()
    (overlay.upper / "etc/hosts").write_text("")
    (overlay.upper / "etc/resolv.conf").write_text("mine")
    (overlay.upper / "proc").mkdir()
    (overlay.upper / "data").mkdir()
    (overlay.upper / "data/file").write_text("")
    skip = ("/etc/hosts", "/etc/resolv.conf", "/proc", "/data")
    assert list(packed(overlay, *skip)) == ["data", "etc", "data/file", "etc/resolv.conf"]


def test_a_name_that_would_mean_a_deletion(overlay: Overlay) -> None:
    (overlay.upper / ".wh.file").write_text("")
    with pytest.raises(Unfit, match=r"a file /\.wh\.file"):
        packed(overlay)


def test_names_that_are_not_text(overlay: Overlay) -> None:
    (overlay.upper / os.fsdecode(b"caf\xe9 \n")).write_text("x")
    assert [os.fsencode(name) for name in packed(overlay)] == [b"caf\xe9 \n"]


def test_large_holes_stay_holes(overlay: Overlay, tmp_path: Path) -> None:
    size = 64 << 20
    with (overlay.upper / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(40 << 20)
        file.write(b"middle")
        file.truncate(size)
    os.link(overlay.upper / "sparse", overlay.upper / "twin")
    entries = packed(overlay)
    assert (tmp_path / "layer.tar").stat().st_size < 1 << 20
    assert entries["sparse"].size == size
    assert entries["twin"].linkname == "sparse"
    data = content(overlay, "sparse")
    assert len(data) == size
    assert data[:4] == b"head"
    assert data[40 << 20 : (40 << 20) + 6] == b"middle"
    assert data.count(0) == size - 10


def test_a_file_that_is_one_hole(overlay: Overlay) -> None:
    with (overlay.upper / "hole").open("wb") as file:
        file.truncate(8 << 20)
    packed(overlay)
    assert content(overlay, "hole") == bytes(8 << 20)


def test_giving_up(overlay: Overlay, tmp_path: Path) -> None:
    (overlay.upper / "file").write_text("x")

    def late() -> None:
        raise TimeoutError("late")

    with pytest.raises(TimeoutError):
        rootfs.pack(overlay, tmp_path / "layer.tar", check=late)


def test_an_ordinary_folder(tmp_path: Path) -> None:
    (tmp_path / "shm/sub").mkdir(parents=True)
    (tmp_path / "shm/sub/seg").write_bytes(b"abc")
    (tmp_path / "shm/.wh.is-a-name").write_text("here it means nothing")
    assert rootfs.pack_folder(tmp_path / "shm", tmp_path / "shm.tar") == 3
    with tarfile.open(tmp_path / "shm.tar") as tar:
        assert tar.getnames() == [".wh.is-a-name", "sub", "sub/seg"]


def test_only_overlay_is_read() -> None:
    listed = mounts.parse("1 0 0:1 / /r rw - btrfs /dev/vda rw\n")
    with pytest.raises(Unfit, match="is a btrfs filesystem"):
        rootfs.overlay_at(Path("/r"), listed)
    with pytest.raises(Unfit, match="is no mount"):
        rootfs.overlay_at(Path("/other"), listed)
    listed = mounts.parse("1 0 0:1 / /r rw - overlay overlay ro,lowerdir=/a\n")
    with pytest.raises(Unfit, match="overlay"):
        rootfs.overlay_at(Path("/r"), listed)


@pytest.mark.parametrize(
    ("options", "prefix"), [("userxattr", "user.overlay."), ("rw", "trusted.overlay.")]
)
def test_the_overlay_of_a_mount(options: str, prefix: str) -> None:
    listed = mounts.parse(f"1 0 0:1 / /r rw - overlay overlay rw,upperdir=/u,{options}\n")
    assert rootfs.overlay_at(Path("/r"), listed) == Overlay(
        merged=Path("/r"), upper=Path("/u"), prefix=prefix
    )


@given(st.integers(min_value=-(10**18), max_value=10**19))
def test_times_keep_their_nanoseconds(nanoseconds: int) -> None:
    text = rootfs._seconds(nanoseconds)
    sign = -1 if text.startswith("-") else 1
    whole, _, fraction = text.lstrip("-").partition(".")
    assert len(fraction) == 9
    assert sign * (int(whole) * 10**9 + int(fraction)) == nanoseconds


def test_regions_are_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(256)))
    with (tmp_path / "f").open("rb") as file:
        nothing: Callable[[], None] = lambda: None  # noqa: E731
        regions = rootfs._Regions(b"head", file, [(10, 5), (20, 0), (30, 3)], nothing)
        pieces = []
        while piece := regions.read(4):
            pieces.append(piece)
    assert b"".join(pieces) == b"head" + bytes(range(10, 15)) + bytes(range(30, 33))
    assert all(len(piece) <= 4 for piece in pieces)
