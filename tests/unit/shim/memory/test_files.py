from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.errors import Broken
from shim.memory.files import SourceFiles
from shim.memory.model import PAGE
from shim.memory.pieces import ZERO, Piece


def _read(files: SourceFiles, pieces: list[Piece], origin: int, size: int) -> bytes:
    buffer = bytearray(b"-" * size)
    files.read(pieces, memoryview(buffer), origin)
    return bytes(buffer)


def test_pieces_are_read_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "b").write_bytes(b"abcdef")
    with SourceFiles() as files:
        a, b = files.open(tmp_path / "a", own=False), files.open(tmp_path / "b", own=False)
        pieces = [Piece(101, 2, a, 3), Piece(104, 2, a, 5), Piece(106, 1, ZERO, 0)]
        pieces += [Piece(107, 3, b, 0), Piece(110, 1, a, 9)]
        assert _read(files, pieces, 100, 12) == b"-34-56\0abc9-"


def test_many_small_pieces_of_one_range_are_read(tmp_path: Path) -> None:
    data = os.urandom(2000)
    (tmp_path / "a").write_bytes(data)
    with SourceFiles() as files:
        number = files.open(tmp_path / "a", own=False)
        pieces = [Piece(2 * at, 1, number, at) for at in range(2000)]
        assert _read(files, pieces, 0, 4000)[::2] == data


def test_short_reads_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, some, at: whole(fd, [some[0][:2]], at))
    with SourceFiles() as files:
        number = files.open(tmp_path / "a", own=False)
        pieces = [Piece(0, 3, number, 1), Piece(5, 5, number, 4)]
        assert _read(files, pieces, 0, 10) == b"123--45678"


def test_the_same_file_has_one_number(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    with SourceFiles() as files:
        assert files.open(tmp_path / "a", own=True) == files.open(tmp_path / "b", own=True)


def test_a_file_that_is_missing_or_too_short_is_told(tmp_path: Path) -> None:
    (tmp_path / "pages-1.img").write_bytes(b"0123")
    with SourceFiles() as files:
        with pytest.raises(Broken, match=r"there is no pages-2\.img"):
            files.open(tmp_path / "pages-2.img", own=True)
        number = files.open(tmp_path / "pages-1.img", own=True)
        files.check(Piece(0, 4, number, 0))
        with pytest.raises(Broken, match="wanted at least 5 bytes, found 4 bytes"):
            files.check(Piece(0, 4, number, 1))
        with pytest.raises(Broken, match="ended while it was read"):
            _read(files, [Piece(0, 8, number, 0)], 0, 8)


def test_holes_are_no_data(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        os.truncate(path, 100 * PAGE)
        file.seek(20 * PAGE + 5)
        file.write(b"x" * PAGE)
    with SourceFiles() as files:
        number = files.open(path, own=False)
        assert list(files.data(number, 0, 200 * PAGE)) == [(20 * PAGE, 22 * PAGE)]
        assert list(files.data(number, 21 * PAGE, 50 * PAGE)) == [(21 * PAGE, 22 * PAGE)]
        assert list(files.data(number, 0, 10 * PAGE)) == []
