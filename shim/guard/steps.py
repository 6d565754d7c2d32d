"""How parts of an area become anonymous: pure, the order of system calls for it.

A part that is taken out of an area splits it, and a process may have 65,530 mappings
(vm.max_map_count). So a small one is rounded out to a grain, whose other content is kept.
"""

from __future__ import annotations

from shim.guard.calls import Piece
from shim.guard.maps import Area
from shim.record import record

FINE, COARSE = 1 << 16, 1 << 21
"""Bytes of a grain, and of one where the process has many mappings already."""
MANY = 10_000

_ANONYMOUS, _FIXED, _PRIVATE, _NORESERVE = 0x20, 0x10, 0x02, 0x4000
_MLOCK_ONFAULT = 1
_MMAP, _MUNLOCK, _MLOCK2, _MADVISE, _PKEY_MPROTECT = 9, 150, 325, 28, 329
_ADVICE = {"dc": 10, "mg": 12, "hg": 14, "nh": 15, "dd": 16}
"""VmFlags → the advice that sets it: DONTFORK, MERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP."""
_NO_FILE = (1 << 64) - 1

Call = tuple[int, ...]
"""Number and arguments of a system call."""


@record()
class Step:
    """One range that becomes anonymous at once."""

    area: Area
    """The range, with what a mapping there needs."""
    keep: tuple[tuple[int, int], ...]
    """Parts of it whose content stays."""


def steps(pieces: list[Piece], areas: list[Area], lines: int) -> list[Step]:
    """What to do for pieces of ``areas`` of a process that has ``lines`` mappings."""
    grain = FINE if lines < MANY else COARSE
    return [_step(piece, areas, grain) for piece in pieces]


def _step(piece: Piece, areas: list[Area], grain: int) -> Step:
    part = piece.area
    if not piece.empty:
        return Step(part, ((part.start, part.end),))
    if part.end - part.start >= grain:
        return Step(part, ())
    whole = next(one for one in areas if one.start <= part.start < one.end)
    start = max(part.start // grain * grain, whole.start)
    end = min(-(-part.end // grain) * grain, whole.end)
    keep = [(start, part.start), (part.end, end)]
    wide = Area(start, end, part.prot, part.flags, part.key)
    return Step(wide, tuple(one for one in keep if one[0] < one[1]))


def chunks(step: Step, size: int) -> list[Step]:
    """A step in smaller ones that follow each other, each of at most ``size`` bytes if it keeps."""
    area = step.area
    if not step.keep:
        return [step]
    found = []
    for start in range(area.start, area.end, size):
        end = min(start + size, area.end)
        keep = [(max(one[0], start), min(one[1], end)) for one in step.keep]
        part = Area(start, end, area.prot, area.flags, area.key)
        found.append(Step(part, tuple(one for one in keep if one[0] < one[1])))
    return found


def mmap(area: Area) -> Call:
    """The call that puts an empty anonymous mapping there."""
    flags = _PRIVATE | _ANONYMOUS | _FIXED | (_NORESERVE if "nr" in area.flags else 0)
    return (_MMAP, area.start, area.end - area.start, area.prot, flags, _NO_FILE, 0)


def dressing(area: Area, *, locks: bool) -> list[Call]:
    """The calls that give the new mapping what the old one had besides.

    ``locks``: the process has locked memory, perhaps this mapping by that (mlockall(2)).
    """
    size = area.end - area.start
    calls: list[Call] = [
        (_MADVISE, area.start, size, advice)
        for flag, advice in _ADVICE.items()
        if flag in area.flags
    ]
    if area.key:
        calls.append((_PKEY_MPROTECT, area.start, size, area.prot, area.key))
    if "lo" in area.flags:
        # Locked as it is touched: what was not there needs not be there now.
        calls.append((_MLOCK2, area.start, size, _MLOCK_ONFAULT))
    elif locks:
        calls.append((_MUNLOCK, area.start, size))
    return calls
