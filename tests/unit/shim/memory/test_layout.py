from __future__ import annotations

import pytest

from shim.criu import images, mm, pagemap
from shim.memory import layout
from shim.memory.model import PAGE
from shim.memory.pieces import Piece
from shim.memory.sources import Task
from tests.unit.shim.memory import dumps
from tests.unit.shim.memory.dumps import ANON, GROWSDOWN, MAPPED, PLAIN

BASE = 0x7F0000000000


def _vma(start: int, pages: int, flags: int = PLAIN, status: int = ANON, madv: int = 0) -> mm.Vma:
    return mm.Vma(start, start + pages * PAGE, 0, 0, 3, flags, status, madv, b"")


def _task(pid: int, vmas: list[mm.Vma], parent: int = 0) -> Task:
    """A process whose areas are full of pages, and with a page of stack."""
    data = dumps.image(images.MM, [dumps.bytes_field(14, _raw())])
    space = mm.AddressSpace.decode(data, "mm")
    space.vmas = vmas
    pieces = [Piece(one.start, one.end - one.start, pid, 0) for one in vmas]
    pieces.append(Piece(dumps.STACK, PAGE, pid, 0))
    table = pagemap.Pagemap(b"", pid, [], b"", wide=True)
    return Task(pid, parent, space, table, pieces)


def _raw() -> bytes:
    values = dict.fromkeys(range(1, 9), 0) | {2: PAGE}
    return dumps.message(values).encode()


def _never(_one: layout.Candidate, _other: layout.Candidate) -> layout.Ranges | None:
    return None


def _always(_one: layout.Candidate, _other: layout.Candidate) -> layout.Ranges | None:
    return ()


@pytest.mark.parametrize(
    "vma",
    [
        _vma(BASE, 40),
        _vma(BASE, 40, status=ANON | mm.HEAP),
        _vma(BASE, 40, flags=PLAIN | mm.MAP_NORESERVE),
        _vma(BASE, 40, madv=1 << 14 | 1 << 10),
    ],
)
def test_ordinary_memory_is_mapped(vma: mm.Vma) -> None:
    assert layout.mappable(vma, ours=False)


@pytest.mark.parametrize(
    "vma",
    [
        _vma(BASE, 40, madv=1 << 18),  # MADV_WIPEONFORK
        _vma(BASE, 40, flags=PLAIN | GROWSDOWN),
        _vma(BASE, 40, flags=PLAIN | 0x2000),  # MAP_LOCKED
        _vma(BASE, 40, flags=PLAIN | 0x40000),  # MAP_HUGETLB
        _vma(BASE, 40, flags=0x28),  # MAP_DROPPABLE
        _vma(BASE, 40, flags=0x21, status=mm.REGULAR | 1 << 8),  # shared
        _vma(BASE, 40, status=ANON | 1 << 13),  # a ring of asynchronous I/O
        _vma(BASE, 40, status=ANON | 1 << 15),  # a shadow stack
        _vma(BASE, 40, status=ANON | 1 << 3),  # the vDSO
        _vma(BASE, 40, flags=mm.MAP_PRIVATE, status=MAPPED),  # another file
    ],
)
def test_what_a_file_mapping_would_not_be_like_is_copied(vma: mm.Vma) -> None:
    assert not layout.mappable(vma, ours=False)


def test_an_earlier_mapping_is_mapped_again_unless_it_was_locked() -> None:
    assert layout.mappable(_vma(BASE, 40, mm.MAP_PRIVATE, MAPPED), ours=True)
    assert not layout.mappable(_vma(BASE, 40, mm.MAP_PRIVATE | 0x2000, MAPPED), ours=True)


def test_an_area_with_guard_pages_is_copied() -> None:
    vma = _vma(BASE, 40)
    assert not layout.mappable(vma, ours=False, guards=[(vma.end - PAGE, vma.end + PAGE)])
    assert layout.mappable(vma, ours=False, guards=[(vma.end, vma.end + PAGE)])


def test_areas_that_would_make_the_file_too_large_are_copied() -> None:
    vmas = [_vma(BASE, 40), _vma(BASE + (1 << 30), 1 << 20), _vma(BASE + (1 << 35), 40)]
    plan = layout.plan([_task(1, vmas)], _never, limit=64 << 20)
    assert list(plan.placed) == [(1, 0), (1, 2)]
    assert plan.size <= 64 << 20


def test_areas_do_not_overlap() -> None:
    tasks = [_task(pid, [_vma(BASE, 40), _vma(BASE + 40 * PAGE, 600)]) for pid in (1, 2, 3)]
    plan = layout.plan(tasks, _never)
    at = 0
    for one in sorted(plan.placed.values(), key=lambda placement: placement.offset):
        assert one.offset >= at
        at = one.offset + one.candidate.end - one.candidate.start
    assert at == plan.size


def test_processes_that_are_no_parent_of_each_other_share_too() -> None:
    tasks = [_task(1, [_vma(BASE, 50)]), *(_task(pid, [_vma(BASE, 40)], 1) for pid in (2, 3))]
    plan = layout.plan(tasks, _always)
    assert plan.placed[3, 0].owner.pid == 2
    assert plan.placed[3, 0].offset == plan.placed[2, 0].offset != plan.placed[1, 0].offset


def test_areas_with_the_same_addresses_have_a_name_each() -> None:
    tasks = [_task(1, [_vma(BASE, 40)]), _task(2, [_vma(BASE, 40)], 1), _task(3, [_vma(BASE, 40)])]
    assert [one.slot for one in layout.plan(tasks, _always).placed.values()] == [0, 0, 0]
    assert [one.slot for one in layout.plan(tasks, _never).placed.values()] == [0, 1, 2]


def test_a_program_of_32_bits_is_copied() -> None:
    low = _vma(1 << 20, 40)
    assert layout.plan([_task(1, [low])], _always).placed == {}
    assert layout.plan([_task(1, [low, _vma(BASE, 1)])], _always).placed.keys() == {(1, 0)}


def test_what_the_guard_cannot_guard_is_copied() -> None:
    assert layout.plan([_task(1, [_vma(1 << 50, 40)])], _always).placed == {}
