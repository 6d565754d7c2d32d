"""``pages.sums``: the digests of what ``pages`` holds.

Text, one line for each range of data: ``offset length sha256``, decimal and hexadecimal, by
offset. What no line covers is zero, and stored as a hole. A range is at most 4 MiB long and does
not cross a multiple of 4 MiB, so that all of them can be made and verified independently. The
digest of this file stands for the whole memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shim.errors import Broken
from shim.memory.model import PAGE, Extent

CHUNK = 4 << 20
"""Bytes."""

_LINE = re.compile(rb"(0|[1-9][0-9]{0,18}) ([1-9][0-9]{0,6}) ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Sum:
    """One range of data."""

    offset: int
    length: int
    sha256: str


def encode(sums: Iterable[Sum]) -> bytes:
    """The file; ``sums`` by offset."""
    return b"".join(f"{one.offset} {one.length} {one.sha256}\n".encode() for one in sums)


def decode(data: bytes) -> Iterator[Sum]:
    """Read the file; Broken for one that is not as described above."""
    if data and not data.endswith(b"\n"):
        raise Broken("the list of the memory's digests is truncated")
    at = 0
    for number, line in enumerate(data.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise Broken(f"line {number} of the memory's digests is none: {line[:120]!r}")
        offset, length = int(match[1]), int(match[2])
        end = offset + length
        if offset < at or (offset | length) % PAGE or offset // CHUNK != (end - 1) // CHUNK:
            raise Broken(f"line {number} of the memory's digests has the range {line[:40]!r}")
        yield Sum(offset, length, match[3].decode())
        at = end


def extents(sums: Iterable[Sum]) -> tuple[Extent, ...]:
    """The ranges that hold data, as few as possible."""
    found: list[Extent] = []
    for one in sums:
        if found and found[-1].offset + found[-1].length == one.offset:
            found[-1] = Extent(found[-1].offset, found[-1].length + one.length)
        else:
            found.append(Extent(one.offset, one.length))
    return tuple(found)
