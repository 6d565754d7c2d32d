"""Files of a snapshot in the page cache: how much of them, all of them, or nothing.

cachestat(2) tells how many pages of a file the kernel has; POSIX_FADV_DONTNEED drops those that
are clean and that nobody has mapped. Both work on files that other mount namespaces see.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
CHUNK = 16 << 20
"""Bytes of one read or write."""

_CACHESTAT = 451
"""The number of the call, the same on all architectures; since Linux 6.5."""
_libc = ctypes.CDLL(None, use_errno=True)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def files(folder: Path) -> list[Path]:
    """All regular files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def on_disk(paths: Iterable[Path]) -> int:
    """Bytes that the files have on disk: holes do not count."""
    return sum(path.stat().st_blocks * 512 for path in paths)


def resident(paths: Iterable[Path]) -> int:
    """Bytes of the files that the page cache has. Raises OSError where the kernel cannot tell."""
    total = 0
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            asked, told = _Range(0, 0), _Counts()
            if _libc.syscall(_CACHESTAT, fd, ctypes.byref(asked), ctypes.byref(told), 0):
                number = ctypes.get_errno()
                raise OSError(number, f"cachestat: {os.strerror(number)}")
            total += told.cached * PAGE
        finally:
            os.close(fd)
    return total


def drop(paths: Iterable[Path]) -> float:
    """Drop the files from the page cache; the share of them that stays there all the same."""
    listed = list(paths)
    for path in listed:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # dirty pages are not dropped
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    return resident(listed) / max(1, on_disk(listed))


def warm(paths: Iterable[Path]) -> float:
    """Read what the page cache lacks of the files; the share of them that it has then.

    What was read only once is the first to go when memory is short, hence several times.
    """
    listed = list(paths)
    for _ in range(3):
        for path in listed:
            if resident([path]) < path.stat().st_blocks * 512:
                read(path)
    return resident(listed) / max(1, on_disk(listed))


def read(path: Path) -> float:
    """Read a file from its beginning to its end as ``dd bs=16M`` does; seconds."""
    buffer = bytearray(CHUNK)
    begun = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - begun


def write(path: Path, size: int) -> float:
    """Write a file of random bytes as ``dd bs=16M conv=fdatasync`` does; seconds.

    The file is removed again.
    """
    block = os.urandom(CHUNK)
    begun = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        left = size
        while left > 0:
            left -= os.write(fd, memoryview(block)[:left])
        os.fdatasync(fd)
        return time.perf_counter() - begun
    finally:
        os.close(fd)
        path.unlink()
