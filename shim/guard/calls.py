"""Which treatment a stopped call needs: pure, from its number and arguments.

How the kernel reads the arguments, and what it refuses: mm/madvise.c, mm/mremap.c, kernel/sys.c,
fs/userfaultfd.c. A call that the kernel will refuse is left to it.
"""

from __future__ import annotations

import struct

from shim.guard import filter as bpf
from shim.guard.maps import Area, inside
from shim.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:  # the agent starts without the package collections
    from collections.abc import Callable

    Read = Callable[[int, int], bytes]

PAGE = 4096

DONTNEED, FREE, REMOVE, DONTNEED_LOCKED, GUARD_INSTALL = 4, 8, 9, 24, 102
_DISCARDS = (DONTNEED, FREE, DONTNEED_LOCKED, GUARD_INSTALL)
"""After these, what was in the range is gone."""
_REFUSES_LOCKED = (DONTNEED, FREE, GUARD_INSTALL)
_SETS_FLAGS = (10, 11, 12, 13, 14, 15, 16, 17)
"""DONTFORK, DOFORK, (UN)MERGEABLE, (NO)HUGEPAGE, DONTDUMP, DODUMP: the same for both kinds of
memory, but a mapping that takes the place must get the flag too."""

_MAYMOVE, _FIXED, _DONTUNMAP = 1, 2, 4
_ADDRESSES = 1 << 64
_IOVEC = struct.Struct("=QQ")
_MOST_IOVECS = 1024

NOTHING, FLAGS, DISCARD, KEEP, NAME, REFUSE = range(6)
"""Treatments: the call may go on; it may, and flags of mappings will differ from here on; the range
becomes anonymous, empty or with its content; a name is given, which such an area cannot have; the
call fails with EINVAL if the first mapping in the range is one of ours."""


@record(frozen=True)
class Wish:
    """What a call asks for."""

    kind: int
    ranges: tuple[tuple[int, int], ...] = ()
    """(start, end) in bytes, whole pages."""
    advice: int = 0
    joined: bool = False
    """Whether the kernel wants the range to lie in one mapping, as anonymous memory does that was
    mapped at once."""


def wish(arch: int, number: int, arguments: tuple[int, ...], read: Read) -> Wish:
    """What a stopped call wants.

    ``read(address, size)`` gives the caller's memory, or raises OSError. files the descriptors
    of ioctl and process_madvise are, the caller has to see.
    """
    if arch == bpf.I386:
        number = {bpf.I386_MADVISE: bpf.MADVISE, bpf.I386_MREMAP: bpf.MREMAP}.get(number, -1)
    try:
        if number == bpf.MADVISE:
            return _madvise(arguments[0], arguments[1], arguments[2] & 0xFFFFFFFF)
        if number == bpf.MREMAP:
            return _mremap(*arguments[:4])
        if number == bpf.IOCTL:
            return _userfault(arguments[1] & 0xFFFFFFFF, arguments[2], read)
        if number == bpf.PROCESS_MADVISE:
            return _process_madvise(arguments, read)
    except OSError:  # it points to memory that cannot be read: EFAULT
        return Wish(NOTHING)
    if number == bpf.PKEY_MPROTECT:
        span = _span(arguments[0], arguments[1])
        return Wish(FLAGS, (span,)) if span else Wish(NOTHING)
    if number == bpf.PRCTL:
        return _name(arguments)
    return Wish(NOTHING)


@record()
class Piece:
    """A part of an area that becomes anonymous."""

    area: Area
    empty: bool
    """Whether its content goes."""


def pieces(one: Wish, areas: list[Area]) -> list[Piece]:
    """What has to become anonymous for a wish; nothing when the call may go on as it is.

    The kernel takes a range from its start and stops at the first mapping that it refuses. So only
    what lies without a gap behind the start, all of it ours, is certain to lose its content;
    whatever follows keeps it, and loses it by the call itself if the kernel gets there. A locked
    area is left alone where the kernel refuses it.
    """
    if one.kind not in (DISCARD, KEEP):
        return []
    found: list[Piece] = []
    for start, end in one.ranges:
        certain, reached = one.kind == DISCARD, start
        for area in inside(areas, start, end):
            locked = "lo" in area.flags and one.advice in _REFUSES_LOCKED
            certain = certain and area.start == reached and not locked
            reached = area.end
            if not locked:
                found.append(Piece(area, empty=certain))
    return found


def _madvise(start: int, length: int, advice: int) -> Wish:
    span = _span(start, length)
    if span is None:
        return Wish(NOTHING)
    if advice in _DISCARDS:
        return Wish(DISCARD, (span,), advice=advice)
    if advice in _SETS_FLAGS:
        return Wish(FLAGS, (span,), advice=advice)
    return Wish(REFUSE if advice == REMOVE else KEEP, (span,), advice=advice)


def _mremap(start: int, old: int, new: int, flags: int) -> Wish:
    span = _span(start, old)
    moves = flags & (_FIXED | _DONTUNMAP)
    if span is None or _up(new) == 0 or flags >> 3 or (moves and not flags & _MAYMOVE):
        return Wish(NOTHING)
    if not moves and _up(new) <= _up(old):
        return Wish(NOTHING)
    return Wish(KEEP, (span,), joined=True)


def _userfault(command: int, address: int, read: Read) -> Wish:
    """UFFDIO_REGISTER's range, or the one that UFFDIO_MOVE takes pages from."""
    if command == bpf.UFFDIO_REGISTER:
        start, length = _IOVEC.unpack(read(address, _IOVEC.size))
    elif command == bpf.UFFDIO_MOVE:
        _, start, length = struct.unpack("=QQQ", read(address, 24))
    else:
        return Wish(NOTHING)
    span = _span(start, length)
    return Wish(KEEP, (span,), joined=True) if span and length % PAGE == 0 else Wish(NOTHING)


def _process_madvise(arguments: tuple[int, ...], read: Read) -> Wish:
    _, address, count, advice, flags = arguments[:5]
    advice &= 0xFFFFFFFF
    if flags & 0xFFFFFFFF or not 0 < count <= _MOST_IOVECS:
        return Wish(NOTHING)
    spans = [_span(*one) for one in _IOVEC.iter_unpack(read(address, count * _IOVEC.size))]
    ranges = tuple(span for span in spans if span is not None)
    if advice in _SETS_FLAGS:
        return Wish(FLAGS, ranges, advice=advice)
    return Wish(KEEP, ranges, advice=advice)


def _name(arguments: tuple[int, ...]) -> Wish:
    """prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, length, name)."""
    _, what, start, length = arguments[:4]
    span = _span(start, length)
    return Wish(NAME, (span,)) if span and what == 0 else Wish(NOTHING)


def _span(start: int, length: int) -> tuple[int, int] | None:
    """A range as the kernel takes it; None for one that it refuses, or that is empty."""
    end = start + _up(length)
    if start % PAGE or end == start or end >= _ADDRESSES:
        return None
    return start, end


def _up(length: int) -> int:
    return -(-length // PAGE) * PAGE
