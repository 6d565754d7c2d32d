"""Which areas are mapped, and where each lies in ``pages``: decisions only, no file is touched.

An area of its own is laid out as in memory, gaps and all, so that one mapping serves it whatever
of it is touched. A process that was forked finds most pages of an area as its parent has them;
it maps the parent's area, and the pages that differ are copied by CRIU over that mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shim.criu import mm
from shim.memory.model import PAGE
from shim.memory.pieces import length, within
from shim.memory.sources import Task

MIN_PAGES = 32
"""Areas with fewer pages are copied: that is quicker than their faults."""

MAX_SIZE = 8 << 40
"""Bytes; file systems allow 16 TiB and more, holes included."""

ALIGN = 2 << 20
"""Bytes; an area lies as its address does in a huge page, so that page tables can be shared out
in whole folios of the page cache."""

_STATUS = {mm.REGULAR | mm.ANON_PRIVATE, mm.REGULAR | mm.ANON_PRIVATE | mm.HEAP}
_FLAGS = mm.MAP_PRIVATE | mm.MAP_ANONYMOUS | mm.MAP_NORESERVE
"""Others say: grows down, locked, huge pages, may be dropped."""

_RANDOM, _SEQUENTIAL, _DONTFORK, _MERGEABLE, _HUGE, _NOHUGE, _DONTDUMP = 1, 2, 10, 12, 14, 15, 16
_ADVICE = sum(1 << n for n in (_RANDOM, _SEQUENTIAL, _DONTFORK, _MERGEABLE, _HUGE, _NOHUGE))
_ADVICE |= 1 << _DONTDUMP
"""What madvise(2) takes for private mappings of a file, too; MADV_WIPEONFORK it does not."""

_32_BITS = 1 << 32
"""A program with nothing above is one of 32 bits, which the guard cannot serve."""

_GUARDED = 1 << 48
"""The guard (:mod:`shim.guard.filter`) knows addresses below; only who asks for it has others."""

Key = tuple[int, int]
"""A VMA: process and position in its list."""

Ranges = tuple[tuple[int, int], ...]
"""Address ranges [start, end), sorted."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A VMA that may be mapped."""

    pid: int
    index: int
    start: int
    end: int
    pages: int
    """How many of its pages hold data."""

    @property
    def key(self) -> Key:
        """What it is known by."""
        return self.pid, self.index


@dataclass(frozen=True, slots=True)
class Placement:
    """A VMA that is mapped."""

    candidate: Candidate
    owner: Candidate
    """Whose content the area has: the candidate's own, or that of a process it is like."""
    offset: int
    """Of the area in ``pages``."""
    slot: int
    """By which name of ``pages`` in CRIU's list of files it is mapped. CRIU takes a child's VMA for
    its parent's when addresses and file are the same, wherever in the file it begins
    (check_cow_vmas in criu/mem.c); so of areas with the same addresses each has another name."""
    differing: Ranges = ()
    """Where the owner's content is not the candidate's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of the memory of all processes."""

    placed: dict[Key, Placement]
    size: int
    """Bytes of ``pages``, holes included."""


Compare = Callable[[Candidate, Candidate], Ranges | None]
"""Where the first one's content is not the second's; None: in too many places."""


def plan(tasks: Sequence[Task], compare: Compare, *, limit: int = MAX_SIZE) -> Plan:
    """Place what is worth it; ``tasks`` has parents before their children."""
    placed: dict[Key, Placement] = {}
    by_range: dict[tuple[int, int], list[Placement]] = {}
    by_task: dict[int, dict[tuple[int, int], Placement]] = {}
    size = 0
    for task in tasks:
        mine = by_task[task.pid] = {}
        parents = by_task.get(task.parent, {})
        for one in _worth_it(task):
            span = one.start, one.end
            known = by_range.setdefault(span, [])
            above = parents.get(span)
            shared = _shared(one, above, known, compare)
            if shared is not None:
                like, differing = shared
                owner, offset, slot = like.owner, like.offset, like.slot
            else:
                owner, differing = one, ()
                offset = size + (one.start - size) % ALIGN
                if offset + one.end - one.start > limit:
                    continue
                size = offset + one.end - one.start
                slot = len(known)
            placement = Placement(one, owner, offset, slot, differing)
            if shared is None:
                known.append(placement)
            placed[one.key] = mine[span] = placement
    return Plan(placed, size)


def mappable(vma: mm.Vma, *, ours: bool, guards: Iterable[tuple[int, int]] = ()) -> bool:
    """Whether a VMA would be the same to its process as a private mapping of a file.

    ``ours``: it is one already. ``guards`` are the ranges of MADV_GUARD_INSTALL, which kernels
    before 6.15 do not know in mappings of files.
    """
    if any(start < vma.end and vma.start < end for start, end in guards):
        return False
    if vma.madv & ~_ADVICE or vma.flags & ~_FLAGS or vma.end > _GUARDED:
        return False
    return ours or (vma.status in _STATUS and vma.flags & mm.MAP_ANONYMOUS != 0)


def _worth_it(task: Task) -> list[Candidate]:
    if all(vma.end <= _32_BITS for vma in task.space.vmas):
        return []
    guards = [(vma.start, vma.end) for vma in task.space.vmas if vma.status & mm.GUARD]
    found = []
    for index, vma in enumerate(task.space.vmas):
        if vma.pages < MIN_PAGES or vma.status & mm.GUARD:
            continue
        if mappable(vma, ours=index in task.ours, guards=guards):
            pages = length(within(task.pieces, vma.start, vma.end)) // PAGE
            if pages >= MIN_PAGES:
                found.append(Candidate(task.pid, index, vma.start, vma.end, pages))
    if found and sum(one.pages for one in found) * PAGE == length(task.pieces):
        # CRIU 4.2 reads the first entry of a page map without looking whether there is one.
        found.remove(min(found, key=lambda one: one.pages))
    return found


def _shared(
    one: Candidate, above: Placement | None, known: Sequence[Placement], compare: Compare
) -> tuple[Placement, Ranges] | None:
    """An area that ``one`` can have in common with another process: the parent's, or the last."""
    tried = []
    for placement in ([above] if above else []) + list(known[-1:]):
        if placement.offset in tried:
            continue
        tried.append(placement.offset)
        differing = compare(one, placement.owner)
        if differing is not None:
            return placement, differing
    return None
