"""``pages`` against ``pages.sums``; as one of a snapshot's files in test_artifacts.py."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.store import pages
from shim.errors import Broken
from shim.memory import sums
from shim.memory.sums import CHUNK, Sum

SIZE = 3 * CHUNK + 8192
RANGES = [(4096, 8192), (CHUNK, CHUNK), (2 * CHUNK, 4096), (3 * CHUNK + 4096, 4096)]
HOLES = SIZE - sum(length for _, length in RANGES)


def content(offset: int, length: int) -> bytes:
    return hashlib.sha256(b"%d" % offset).digest() * (length // 32)


def write(path: Path) -> bytes:
    """A sparse ``pages``; its ``pages.sums``."""
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, length in RANGES:
            os.pwrite(file.fileno(), content(offset, length), offset)
    return sums.encode(
        Sum(offset, length, hashlib.sha256(content(offset, length)).hexdigest())
        for offset, length in RANGES
    )


@pytest.fixture
def listed(tmp_path: Path) -> bytes:
    return write(tmp_path / "pages")


@pytest.fixture
def fd(tmp_path: Path, listed: bytes) -> Iterator[int]:
    assert listed
    opened = os.open(tmp_path / "pages", os.O_RDWR)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("workers", [1, 4])
def test_what_is_stored_is_read_and_holes_are_not(fd: int, listed: bytes, workers: int) -> None:
    read: list[int] = []
    assert pages.check(fd, listed, holes=HOLES, workers=workers, progress=read.append) == ""
    assert sum(read) == SIZE - HOLES


@pytest.mark.parametrize("at", [4096, 4097, CHUNK, 2 * CHUNK - 1, 2 * CHUNK + 4095, SIZE - 1])
def test_one_altered_byte(fd: int, listed: bytes, at: int) -> None:
    (byte,) = os.pread(fd, 1, at)
    os.pwrite(fd, bytes([byte ^ 1]), at)
    assert pages.check(fd, listed, holes=HOLES).startswith("pages was altered between ")


@pytest.mark.parametrize("at", [0, 4095, 4096 * 3, CHUNK - 1, 2 * CHUNK + 4096, 3 * CHUNK + 4095])
def test_data_in_a_hole(fd: int, listed: bytes, at: int) -> None:
    os.pwrite(fd, b"\1", at)
    problem = pages.check(fd, listed, holes=HOLES)
    assert problem.startswith("pages was altered: it has data after ")


def test_zeros_in_a_hole_are_what_a_hole_means(fd: int, listed: bytes) -> None:
    """As a file system without holes stores it."""
    os.pwrite(fd, bytes(1 << 20), 1 << 20)
    assert pages.check(fd, listed, holes=HOLES) == ""


def test_data_that_became_a_hole(fd: int, listed: bytes) -> None:
    os.ftruncate(fd, CHUNK)
    os.ftruncate(fd, SIZE)
    assert pages.check(fd, listed, holes=HOLES).startswith(f"pages was altered between {CHUNK} ")


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE - 4096])
def test_a_truncated_file(fd: int, listed: bytes, size: int) -> None:
    os.ftruncate(fd, size)
    assert "lists more than" in pages.check(fd, listed, holes=size)


def test_a_longer_file(fd: int, listed: bytes) -> None:
    os.ftruncate(fd, SIZE + 4096)
    assert "bytes of holes" in pages.check(fd, listed, holes=HOLES)


def test_a_list_with_less_in_it(fd: int, listed: bytes) -> None:
    """Even if the bytes left out are zero: whoever made the list said how much is stored."""
    shorter = listed.split(b"\n", 1)[1]
    assert "bytes of holes" in pages.check(fd, shorter, holes=HOLES)
    assert "it has data after" in pages.check(fd, shorter, holes=HOLES + 8192)


def test_an_empty_list_and_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file:
        assert pages.check(file.fileno(), b"", holes=0) == ""


def test_what_is_no_list(fd: int) -> None:
    assert "memory's digests" in pages.check(fd, b"x", holes=HOLES)
    with pytest.raises(Broken):
        pages.chunks_of(b"0 4096 xyz\n", SIZE)


def test_a_list_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sums").open("w+b") as file:
        file.truncate(2 << 30)
        with pytest.raises(Broken, match=r"pages\.sums is larger than"):
            pages.read_sums(file.fileno())


@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_no_byte_can_be_altered_unseen(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "pages"
    listed = write(path)
    with path.open("r+b") as file:
        (byte,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte ^ change]), at)
        assert pages.check(file.fileno(), listed, holes=HOLES) != ""
    path.unlink()
