"""Whether a range of a process's memory touches the file, without reading all of /proc/PID/maps.

PROCMAP_QUERY (Linux 6.11, Documentation/filesystems/proc.rst) looks one mapping up by address. A
process with thousands of mappings may give back memory thousands of times a second.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

_QUERY = 0xC0686611
_SHARED, _OR_NEXT, _FILE_BACKED = 0x08, 0x10, 0x20
_UNKNOWN = (errno.ENOTTY, errno.EINVAL)


class _Query(ctypes.Structure):
    """``struct procmap_query``."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("size", "flags", "address", "start", "end")),
        *((name, ctypes.c_uint64) for name in ("mode", "page", "offset", "inode")),
        *((name, ctypes.c_uint32) for name in ("major", "minor", "name_size", "id_size")),
        *((name, ctypes.c_uint64) for name in ("name", "id")),
    ]


def touches(tid: int, name: bytes, ranges: tuple[tuple[int, int], ...]) -> bool | None:
    """Whether a private mapping of the file ``name`` lies in one of the ranges, at least partly.

    None when this kernel does not tell. Raises OSError when the process has ended.
    """
    buffer = ctypes.create_string_buffer(4096)
    maps = os.open(f"/proc/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in ranges:
            at = start
            while at < end:
                query = _Query(
                    size=ctypes.sizeof(_Query),
                    flags=_OR_NEXT | _FILE_BACKED,
                    address=at,
                    name_size=len(buffer),
                    name=ctypes.addressof(buffer),
                )
                if not _ask(maps, query) or query.start >= end:
                    break
                if buffer.value == name and not query.mode & _SHARED:
                    return True
                at = int(query.end)
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        raise
    finally:
        os.close(maps)
    return False


def _ask(maps: int, query: _Query) -> bool:
    """Fill in a query; False when there is no such mapping."""
    try:
        fcntl.ioctl(maps, _QUERY, query)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True
