"""What of a file is in the page cache.

``cachestat(2)`` tells it since Linux 6.5; before, ``mincore(2)`` on a mapping does.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_CACHESTAT = 451  # the same number on every architecture (arch/*/kernel/syscalls)
_WINDOW = 256 << 20  # bytes that are mapped at once to ask mincore

_PAGE = mmap.PAGESIZE


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Stat(ctypes.Structure):
    _fields_ = (
        ("cached", ctypes.c_uint64),
        ("dirty", ctypes.c_uint64),
        ("writeback", ctypes.c_uint64),
        ("evicted", ctypes.c_uint64),
        ("recently_evicted", ctypes.c_uint64),
    )


def resident(fd: int, start: int, end: int) -> int:
    """Bytes of the pages between two offsets of an open file that are in the page cache.

    Whole pages count. Raises OSError.
    """
    if end <= start:
        return 0
    asked, told = _Range(start, end - start), _Stat()
    answer = _LIBC.syscall(
        ctypes.c_long(_CACHESTAT),
        ctypes.c_int(fd),
        ctypes.byref(asked),
        ctypes.byref(told),
        ctypes.c_uint(0),
    )
    if answer == 0:
        return int(told.cached) * _PAGE
    number = ctypes.get_errno()
    # ENOSYS before 6.5; EPERM from a container's seccomp profile that does not know it yet;
    # EOPNOTSUPP for hugetlbfs.
    if number not in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
        raise OSError(number, os.strerror(number))
    return resident_by_mincore(fd, start, end)


def resident_by_mincore(fd: int, start: int, end: int) -> int:
    """The same by mincore(2), which needs the right to write to the file. Raises OSError."""
    start -= start % mmap.ALLOCATIONGRANULARITY
    end = min(end, os.fstat(fd).st_size)
    return sum(_mincore(fd, at, min(at + _WINDOW, end)) for at in range(start, end, _WINDOW))


def _mincore(fd: int, start: int, end: int) -> int:
    with mmap.mmap(
        fd, end - start, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=start
    ) as mapping:
        vector = (ctypes.c_ubyte * -(-(end - start) // _PAGE))()
        first = ctypes.c_char.from_buffer(mapping)  # a private mapping, never written to
        try:
            address = ctypes.addressof(first)
            answer = _LIBC.mincore(
                ctypes.c_void_p(address), ctypes.c_size_t(end - start), ctypes.byref(vector)
            )
            if answer != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            del first
        return sum(byte & 1 for byte in bytes(vector)) * _PAGE
