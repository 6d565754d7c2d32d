"""Which pages of a process a dump holds: ``pagemap-N.img``.

    pagemap-N.img = head entry*       head: N of pages-N.img; entry: address, pages, flags

The pages of the entries marked present follow each other in ``pages-N.img``, in the order of the
entries; those marked as the parent's are in an earlier dump. An image may have a million entries,
hence a decoder of its own. Source: images/pagemap.proto, criu/pagemap.c and criu/page-xfer.c of
CRIU 4.2; 4.1 writes the number of pages into another field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken

_VADDR, _COMPAT_PAGES, _IN_PARENT, _FLAGS, _PAGES = range(1, 6)
_PAGES_ID = 1
PARENT, LAZY, PRESENT = 1 << 0, 1 << 1, 1 << 2
"""Bits of an entry's flags."""
_KNOWN_FLAGS = PARENT | LAZY | PRESENT

_NUMBER = struct.Struct("<I")


class Run(NamedTuple):
    """Pages at consecutive addresses."""

    start: int
    """Address of the first byte."""
    pages: int
    flags: int = PRESENT

    @property
    def end(self) -> int:
        """Address after the last byte."""
        return self.start + (self.pages << 12)


@dataclass(frozen=True, slots=True)
class Pagemap:
    """``pagemap-N.img``."""

    head: bytes
    """The message of the head."""
    pages_id: int
    """N of ``pages-N.img``."""
    runs: list[Run]
    """By address."""
    header: bytes
    """The magic numbers."""
    wide: bool
    """Whether the number of pages stands where CRIU 4.2 has it."""


def decode(data: bytes, name: str) -> Pagemap:
    """Take the image apart; Broken when it is damaged or of a layout not known."""
    magic, header = images.magic_of(data, name)
    if magic != images.PAGEMAP:
        raise Broken(f"{name} is no page map: it holds {images.NAMES[magic]}")
    try:
        head, at = _block(data, len(header))
        runs: list[Run] = []
        wide = False
        while at < len(data):
            entry, at = _block(data, at)
            run, is_wide = _run(entry)
            wide = wide or is_wide
            runs.append(run)
        fields = Message.parse(head)
    except Broken as error:
        raise Broken(f"{name} cannot be read: {error}") from None
    if _PAGES_ID not in fields:
        raise Broken(f"{name} is damaged: it does not say where its pages are")
    for run, after in pairwise(runs):
        if run.end > after.start:
            raise Broken(f"{name} is damaged: the pages at {after.start:#x} are not in order")
    return Pagemap(head, fields.uint(_PAGES_ID), runs, header, wide)


def encode(pagemap: Pagemap) -> bytes:
    """Put the image together again."""
    parts = [pagemap.header, _NUMBER.pack(len(pagemap.head)), pagemap.head]
    for run in pagemap.runs:
        entry = _entry(run, wide=pagemap.wide)
        parts += [_NUMBER.pack(len(entry)), entry]
    return b"".join(parts)


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same pages in as few runs as possible; ``runs`` by address."""
    found: list[Run] = []
    for run in runs:
        if found and found[-1].end == run.start and found[-1].flags == run.flags:
            found[-1] = Run(found[-1].start, found[-1].pages + run.pages, run.flags)
        else:
            found.append(run)
    return found


def _block(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + _NUMBER.size
    if start > len(data):
        raise Broken(f"wanted {start} bytes or more, found {len(data)} bytes")
    end = start + int.from_bytes(data[at:start], "little")
    if end > len(data):
        raise Broken(f"wanted at least {end} bytes, found {len(data)} bytes")
    return data[start:end], end


def _run(entry: bytes) -> tuple[Run, bool]:
    """The entry, and whether it has the wide number of pages; only varints are in one."""
    values = [-1] * 6
    at, size = 0, len(entry)
    while at < size:
        tag = entry[at]
        number = tag >> 3
        if tag & 7 or not 0 < number < 6:
            raise Broken(f"an entry has a field that is not known (tag {tag})")
        value = shift = 0
        while True:
            at += 1
            if at >= size or shift > 63:
                raise Broken("an entry ends inside a number")
            byte = entry[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        at += 1
        values[number] = value
    vaddr, compat, in_parent, flags, pages = values[1:]
    wide = pages >= 0
    if not wide:
        pages = compat
    if vaddr < 0 or vaddr & 0xFFF or pages <= 0 or vaddr + (pages << 12) >= 1 << 64:
        raise Broken(f"an entry has {pages} pages at {vaddr:#x}")
    if flags < 0:  # before CRIU 3.0
        flags = PARENT if in_parent > 0 else PRESENT
    if flags & ~_KNOWN_FLAGS:
        raise Broken(f"an entry has the flags {flags:#x}, known are {_KNOWN_FLAGS:#x}")
    return Run(vaddr, pages, flags), wide


def _entry(run: Run, *, wide: bool) -> bytes:
    out = bytearray(b"\x08") + _varint(run.start)
    out += b"\x10" + _varint(0 if wide else run.pages)
    out += b"\x20" + _varint(run.flags)
    if wide:
        out += b"\x28" + _varint(run.pages)
    return bytes(out)


def _varint(value: int) -> bytearray:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return out
