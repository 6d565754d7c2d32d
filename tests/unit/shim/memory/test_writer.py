from __future__ import annotations

import errno
import hashlib
import os
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.memory import writer
from shim.memory.files import SourceFiles
from shim.memory.model import PAGE
from shim.memory.pieces import Piece
from shim.memory.sums import CHUNK

SOURCE = b"A" * PAGE + bytes(PAGE) + b"\0" * (PAGE - 1) + b"C" + os.urandom(PAGE)
"""A page, a zero page, a page with one byte at its end, a random page."""


@st.composite
def _layout(draw: st.DrawFn) -> list[Piece]:
    at, found = 0, []
    gaps = st.sampled_from([0, 1, 2, 15, 16, 17, 1000])
    for gap, start, size in draw(
        st.lists(st.tuples(gaps, st.integers(0, 3), st.integers(1, 4)), max_size=12)
    ):
        at += gap * PAGE
        length = min(size, 4 - start) * PAGE
        found.append(Piece(at, length, 0, start * PAGE))
        at += length
    return found


def _wanted(pieces: list[Piece], size: int) -> bytes:
    data = bytearray(size)
    for one in pieces:
        data[one.at : one.end] = SOURCE[one.offset : one.offset + one.length]
    return bytes(data)


@settings(max_examples=40)
@given(_layout())
def test_the_file_is_what_the_pieces_say_and_the_digests_cover_what_is_not_zero(
    pieces: list[Piece],
) -> None:
    size = (pieces[-1].end if pieces else 0) + 3 * PAGE
    with tempfile.TemporaryDirectory() as name, SourceFiles() as files:
        source, target = Path(name, "source"), Path(name, "pages")
        source.write_bytes(SOURCE)
        assert files.open(source, own=False) == 0
        sums = writer.write(target, pieces, size, files)
        data = target.read_bytes()
    wanted = _wanted(pieces, size)
    assert data == wanted
    rest = bytearray(wanted)
    at = 0
    for one in sums:
        part = wanted[one.offset : one.offset + one.length]
        assert hashlib.sha256(part).hexdigest() == one.sha256
        assert any(part[:PAGE])
        assert any(part[-PAGE:])
        assert one.offset >= at
        assert one.offset // CHUNK == (one.offset + one.length - 1) // CHUNK
        rest[one.offset : one.offset + one.length] = bytes(one.length)
        at = one.offset + one.length
    assert not any(rest)


def test_zeros_of_64_kib_are_a_hole_and_fewer_are_not() -> None:
    data = bytearray(64 * PAGE)
    for page in (3, 19, 36):
        data[page * PAGE] = 1
    ranges = [(3 * PAGE, 20 * PAGE), (36 * PAGE, 37 * PAGE)]
    assert list(writer.data_ranges(memoryview(data))) == ranges
    assert list(writer.data_ranges(memoryview(bytes(PAGE)))) == []


def test_what_was_copied_is_given_back_unless_the_file_has_another_name(tmp_path: Path) -> None:
    for name in ("own", "shared"):
        (tmp_path / name).write_bytes(os.urandom(1 << 20))
    (tmp_path / "link").hardlink_to(tmp_path / "shared")
    with SourceFiles() as files:
        for number, name in enumerate(("own", "shared")):
            assert files.open(tmp_path / name, own=True) == number
            piece = Piece(0, 1 << 20, number, 0)
            writer.write_plain(tmp_path / f"{name}.new", [piece], files)
    assert (tmp_path / "own").stat().st_blocks == 0
    assert (tmp_path / "shared").read_bytes() == (tmp_path / "shared.new").read_bytes()


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, f"full at {offset}")

    (tmp_path / "source").write_bytes(SOURCE)
    monkeypatch.setattr(os, "pwrite", full)
    with SourceFiles() as files:
        files.open(tmp_path / "source", own=False)
        with pytest.raises(OSError, match="full at 0"):
            writer.write(tmp_path / "pages", [Piece(0, PAGE, 0, 0)], PAGE, files)


def test_a_short_write_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:1000], offset))
    with (tmp_path / "file").open("w+b") as file:
        writer.write_all(file.fileno(), memoryview(SOURCE), 5)
        file.seek(5)
        assert file.read() == SOURCE


def test_a_file_may_be_as_large_as_the_file_system_lets_it(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 30, before[1]))
    try:
        assert writer.capacity(tmp_path, 8 << 40) == 4 << 30
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert writer.capacity(tmp_path, 8 << 40) == 8 << 40
    assert list(tmp_path.iterdir()) == []
