from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.prefetch import cache

PAGE = os.sysconf("SC_PAGESIZE")
SIZE = 64 * PAGE


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[int]:
    """A file of which nothing is in the page cache."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    # No reading around what is asked for.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    yield fd
    os.close(fd)


@pytest.fixture(params=["cachestat", "mincore", "no cachestat"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to ask."""
    if request.param == "mincore":
        monkeypatch.setattr(cache, "resident", cache.resident_by_mincore)
    if request.param == "no cachestat":
        monkeypatch.setattr(cache, "_CACHESTAT", 9999)


@pytest.mark.usefixtures("way")
class TestResident:
    def test_counts_what_was_read(self, cold: int) -> None:
        assert cache.resident(cold, 0, SIZE) == 0
        os.pread(cold, 2 * PAGE, 8 * PAGE)
        assert cache.resident(cold, 0, SIZE) == 2 * PAGE
        assert cache.resident(cold, 8 * PAGE, 9 * PAGE) == PAGE
        assert cache.resident(cold, 0, 8 * PAGE) == 0

    def test_counts_no_more_than_there_is(self, cold: int) -> None:
        os.pread(cold, SIZE, 0)
        assert cache.resident(cold, 0, SIZE) == SIZE
        assert cache.resident(cold, SIZE - PAGE, SIZE + 5 * PAGE) == PAGE

    def test_nothing_of_nothing(self, cold: int) -> None:
        assert cache.resident(cold, PAGE, PAGE) == 0


def test_what_is_no_file_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as raised:
        cache.resident(-1, 0, PAGE)
    assert raised.value.errno == errno.EBADF


def test_a_mapping_that_cannot_be_asked(cold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        @staticmethod
        def mincore(*_: object) -> int:
            ctypes.set_errno(errno.ENOMEM)
            return -1

    monkeypatch.setattr(cache, "_LIBC", Libc)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        cache.resident_by_mincore(cold, 0, SIZE)
