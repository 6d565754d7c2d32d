"""What ``memory.json`` says: which areas of which process are mapped, and where data lies."""

from __future__ import annotations

import json
from dataclasses import dataclass

from shim.errors import Broken

PAGE = 4096
"""Bytes of a page, of CRIU's and of this package's arithmetic (x86-64)."""

MAX_OFFSET = (1 << 63) - 1
"""Bytes; of files, as the kernel has it."""


@dataclass(frozen=True, slots=True)
class Area:
    """One VMA that is a private mapping of ``pages`` after a restore."""

    pid: int
    """The process, by the number it has in its innermost PID namespace (as in CRIU's images)."""
    start: int
    """Address of the first byte."""
    end: int
    """Address after the last byte."""
    offset: int
    """Where in ``pages`` the first byte lies."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of ``pages`` that holds data; what is in none is a hole and reads zero."""

    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The mapped memory of a snapshot."""

    size: int = 0
    """Bytes of ``pages``, holes and all: its logical size."""
    areas: tuple[Area, ...] = ()
    """By process, then by address."""
    extents: tuple[Extent, ...] = ()
    """By offset; they neither touch nor overlap."""

    @property
    def stored(self) -> int:
        """Bytes of data in ``pages``."""
        return sum(extent.length for extent in self.extents)

    def ranges(self) -> dict[int, list[tuple[int, int]]]:
        """Process → the address ranges [start, end) that are mapped, sorted: the guard's."""
        found: dict[int, list[tuple[int, int]]] = {}
        for area in self.areas:
            found.setdefault(area.pid, []).append((area.start, area.end))
        return {pid: sorted(ranges) for pid, ranges in found.items()}


def encode(memory: Memory) -> bytes:
    """``memory.json``."""
    raw = {
        "size": memory.size,
        "areas": [[one.pid, one.start, one.end, one.offset] for one in memory.areas],
        "extents": [[one.offset, one.length] for one in memory.extents],
    }
    return json.dumps(raw, separators=(",", ":")).encode() + b"\n"


def decode(data: bytes) -> Memory:
    """Read ``memory.json``; Broken when it is not a good one."""
    try:
        raw = json.loads(data)
        size = _number(raw["size"])
        areas = tuple(Area(*map(_number, one)) for one in raw["areas"])
        extents = tuple(Extent(*map(_number, one)) for one in raw["extents"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Broken(f"the snapshot's memory.json cannot be read: {error!r}") from error
    for area in areas:
        if not 0 <= area.offset <= area.offset + area.end - area.start <= size:
            raise Broken(f"the snapshot's memory.json puts {area} outside of {size} bytes")
    at = 0
    for extent in extents:
        if not at <= extent.offset < extent.offset + extent.length <= size:
            raise Broken(f"the snapshot's memory.json puts {extent} after {at}, of {size} bytes")
        at = extent.offset + extent.length
    return Memory(size=size, areas=areas, extents=extents)


def _number(raw: object) -> int:
    if type(raw) is not int or not 0 <= raw <= MAX_OFFSET:
        raise TypeError(f"wanted a number of bytes, found {raw!r}")
    return raw
