"""Which pages of the memory of a snapshot a process has touched: /proc/PID/maps and pagemap.

``PAGEMAP_SCAN`` (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst) lists ranges of pages; before
that the entries of the pages are read, eight bytes each. A page counts as touched when it is in
the process's page table, or was and is swapped out. A fault on a page that is cached also maps its
neighbours that are cached: those among the 16 around it, or a whole large folio of 2 MiB. So what
is touched only by reading is known to that precision; a page that was written to is known exactly.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shim.memory import MOUNT_POINT

PROC = Path("/proc")

_LINE = re.compile(
    rf"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+ +{re.escape(MOUNT_POINT)}"
    r"(?: \(deleted\))?$",
    re.MULTILINE,
)

_PAGE = os.sysconf("SC_PAGESIZE")
_REGIONS = 4096  # of one answer
_READ = 1 << 16  # entries of one read
_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_ARGUMENT = struct.Struct("=12Q")
_REGION = struct.Struct("=3Q")
_FILE, _PRESENT, _SWAPPED, _HUGE = 1 << 2, 1 << 3, 1 << 4, 1 << 6  # PAGE_IS_…
_HUGE_SIZE = 2 << 20

# Bits 61 to 63 of an entry: of a file or shared, swapped, present.
_BITS = bytes(byte >> 5 for byte in range(256))
_RUN = re.compile(rb"([\x01-\x07])\1*")


@dataclass(frozen=True, slots=True)
class Mapping:
    """A part of a process's memory that comes from the file ``pages`` of a snapshot."""

    start: int
    """Address."""
    end: int
    offset: int
    """Where in the file its first byte lies."""


@dataclass(frozen=True, slots=True)
class Touched:
    """A range of ``pages`` that a process has touched."""

    start: int
    """Offset in the file."""
    end: int
    shared: bool
    """Whether it still is the file's: not written to."""
    huge: bool = False
    """Whether it is mapped as one, so that perhaps a single page of it was touched."""


def parse_maps(text: str) -> list[Mapping]:
    """The mappings of ``pages`` in /proc/PID/maps, by address."""
    return [
        Mapping(int(start, 16), int(end, 16), int(offset, 16))
        for start, end, offset in _LINE.findall(text)
    ]


def touched(pid: int, *, proc: Path = PROC) -> Iterator[Touched]:
    """What a process has touched of its snapshot's memory, mapping by mapping, by address.

    Raises OSError, such as ProcessLookupError or FileNotFoundError when the process is gone.
    """
    mappings = parse_maps((proc / str(pid) / "maps").read_text(errors="replace"))
    if not mappings:
        return
    fd = os.open(proc / str(pid) / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for mapping in mappings:
            shift = mapping.offset - mapping.start
            for one in scan(fd, mapping.start, mapping.end):
                yield Touched(one.start + shift, one.end + shift, one.shared, one.huge)
    finally:
        os.close(fd)


def scan(fd: int, start: int, end: int) -> Iterator[Touched]:
    """What of an open pagemap is present or swapped, by its addresses. Raises OSError."""
    try:
        yield from _scan_by_ioctl(fd, start, end)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        yield from _scan_by_reading(fd, start, end)


def _scan_by_ioctl(fd: int, start: int, end: int) -> Iterator[Touched]:
    regions = bytearray(_REGION.size * _REGIONS)
    keep = (ctypes.c_char * len(regions)).from_buffer(regions)
    while start < end:
        argument = bytearray(
            _ARGUMENT.pack(
                _ARGUMENT.size,
                0,  # flags
                start,
                end,
                0,  # walk_end, which the kernel sets
                ctypes.addressof(keep),
                _REGIONS,
                0,  # max_pages
                0,  # category_inverted
                0,  # category_mask
                _PRESENT | _SWAPPED,  # category_anyof_mask
                _FILE | _HUGE,  # return_mask
            )
        )
        count = fcntl.ioctl(fd, _SCAN, argument)
        for at in range(count):
            low, high, categories = _REGION.unpack_from(regions, at * _REGION.size)
            shared = categories & _FILE != 0
            yield Touched(low, high, shared, shared and categories & _HUGE != 0)
        start = _ARGUMENT.unpack(argument)[4]


def _scan_by_reading(fd: int, start: int, end: int) -> Iterator[Touched]:
    """As :func:`scan`, from the entries, which do not tell what is mapped as one: it may be."""
    while start < end:
        size = min((end - start) // _PAGE, _READ) * 8
        entries = os.pread(fd, size, start // _PAGE * 8)
        if not entries:
            return
        for run in _RUN.finditer(entries[7::8].translate(_BITS)):
            bits = run[1][0]
            if bits & 0b110:
                low, high = start + run.start() * _PAGE, start + run.end() * _PAGE
                shared = bits == 0b101
                yield Touched(low, high, shared, shared and high - low >= _HUGE_SIZE)
        start += len(entries) // 8 * _PAGE
