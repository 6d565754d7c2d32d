from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.guard import calls
from shim.guard import filter as bpf
from shim.guard.calls import DISCARD, FLAGS, KEEP, NAME, NOTHING, REFUSE, Piece, Wish
from shim.guard.maps import Area

P = 4096
FREE, WIPEONFORK = 8, 18


def unreadable(address: int, size: int) -> bytes:
    raise OSError(14, f"{address} {size}")


def wish(number: int, *arguments: int, arch: int = bpf.X86_64, memory: bytes = b"") -> Wish:
    def read(address: int, size: int) -> bytes:
        if address != 0x5000 or size > len(memory):
            raise OSError(14, "cannot be read")
        return memory[:size]

    return calls.wish(arch, number, (*arguments, *(0,) * 6)[:6], read)


@pytest.mark.parametrize(
    ("advice", "kind"),
    [
        (calls.DONTNEED, DISCARD),
        (FREE, DISCARD),
        (calls.DONTNEED_LOCKED, DISCARD),
        (calls.GUARD_INSTALL, DISCARD),
        (WIPEONFORK, KEEP),
        (25, KEEP),
        (100, KEEP),
        (4000, KEEP),  # of a later kernel
        (calls.REMOVE, REFUSE),
        (14, FLAGS),
        (16, FLAGS),
    ],
)
def test_madvise(advice: int, kind: int) -> None:
    wanted = Wish(kind, ((P, 3 * P),), advice=advice)
    assert wish(bpf.MADVISE, P, P + 1, advice | 7 << 32) == wanted
    assert wish(bpf.I386_MADVISE, P, 2 * P, advice, arch=bpf.I386) == wanted
    assert wish(bpf.I386_MADVISE, P, 2 * P, advice) == Wish(NOTHING)  # another call, natively


@pytest.mark.parametrize(
    ("start", "length"), [(1, P), (P, 0), (P, (1 << 64) - 1), ((1 << 64) - P, 2 * P)]
)
def test_ranges_that_the_kernel_refuses(start: int, length: int) -> None:
    assert wish(bpf.MADVISE, start, length, 4) == Wish(NOTHING)
    assert wish(bpf.MREMAP, start, length, 8 * P, 1) == Wish(NOTHING)
    assert wish(bpf.PRCTL, bpf.PR_SET_VMA, 0, start, length) == Wish(NOTHING)
    assert wish(bpf.PKEY_MPROTECT, start, length, 3, 1) == Wish(NOTHING)


@pytest.mark.parametrize(
    ("old", "new", "flags", "wanted"),
    [
        (2 * P, 3 * P, 0, True),  # grows
        (2 * P, 3 * P, 1, True),
        (2 * P, 2 * P, 1, False),
        (2 * P, 2 * P - 5, 1, False),
        (2 * P - 7, 2 * P, 0, False),  # the same number of pages
        (3 * P, 2 * P, 1, False),  # shrinks where it is
        (2 * P, 2 * P, 3, True),  # moves
        (2 * P, P, 3, True),
        (2 * P, 2 * P, 5, True),  # leaves
        (2 * P, 2 * P, 2, False),  # refused
        (2 * P, 0, 1, False),
        (2 * P, 3 * P, 9, False),
    ],
)
def test_mremap(old: int, new: int, flags: int, wanted: bool) -> None:  # noqa: FBT001
    end = P + -(-old // P) * P
    answer = Wish(KEEP, ((P, end),), joined=True) if wanted else Wish(NOTHING)
    assert wish(bpf.MREMAP, P, old, new, flags) == answer
    assert wish(bpf.I386_MREMAP, P, old, new, flags, arch=bpf.I386) == answer


def test_userfaultfd() -> None:
    register = struct.pack("=4Q", P, 2 * P, 1, 0)
    wanted = Wish(KEEP, ((P, 3 * P),), joined=True)
    assert wish(bpf.IOCTL, 3, bpf.UFFDIO_REGISTER, 0x5000, memory=register) == wanted
    move = struct.pack("=5Q", 9 * P, P, 2 * P, 0, 0)
    assert wish(bpf.IOCTL, 3, bpf.UFFDIO_MOVE, 0x5000, memory=move) == wanted
    assert wish(bpf.IOCTL, 3, 0x5401, 0x5000, memory=move) == Wish(NOTHING)
    assert wish(bpf.IOCTL, 3, bpf.UFFDIO_MOVE, 0x6000, memory=move) == Wish(NOTHING)
    uneven = struct.pack("=4Q", P, 2 * P + 1, 1, 0)
    assert wish(bpf.IOCTL, 3, bpf.UFFDIO_REGISTER, 0x5000, memory=uneven) == Wish(NOTHING)


def test_process_madvise() -> None:
    vector = struct.pack("=4Q", P, 2 * P, 8 * P, 1)
    ranges = ((P, 3 * P), (8 * P, 9 * P))
    number = bpf.PROCESS_MADVISE
    assert wish(number, 3, 0x5000, 2, 4, 0, memory=vector) == Wish(KEEP, ranges, advice=4)
    assert wish(number, 3, 0x5000, 2, 14, 0, memory=vector) == Wish(FLAGS, ranges, advice=14)
    for count, flags in ((0, 0), (1025, 0), (2, 1), (3, 0)):
        assert wish(number, 3, 0x5000, count, 4, flags, memory=vector) == Wish(NOTHING)


def test_names_and_keys() -> None:
    assert wish(bpf.PRCTL, bpf.PR_SET_VMA, 0, P, P) == Wish(NAME, ((P, 2 * P),))
    assert wish(bpf.PRCTL, bpf.PR_SET_VMA, 1, P, P) == Wish(NOTHING)
    assert wish(bpf.PKEY_MPROTECT, P, P, 3, 1) == Wish(FLAGS, ((P, 2 * P),))


def discard(start: int, end: int, advice: int = calls.DONTNEED) -> Wish:
    return Wish(DISCARD, ((start, end),), advice=advice)


LOCKED = frozenset({"lo"})


def test_only_what_the_kernel_surely_reaches_loses_its_content() -> None:
    areas = [Area(P, 4 * P, 3), Area(4 * P, 5 * P, 1), Area(6 * P, 8 * P, 3)]
    assert calls.pieces(discard(2 * P, 7 * P), areas) == [
        Piece(Area(2 * P, 4 * P, 3), empty=True),
        Piece(Area(4 * P, 5 * P, 1), empty=True),
        Piece(Area(6 * P, 7 * P, 3), empty=False),  # something else is before it
    ]
    assert calls.pieces(discard(0, 2 * P), areas) == [Piece(Area(P, 2 * P, 3), empty=False)]
    assert calls.pieces(discard(8 * P, 9 * P), areas) == []


@pytest.mark.parametrize("advice", [calls.DONTNEED, FREE, calls.GUARD_INSTALL])
def test_what_the_kernel_refuses_is_left(advice: int) -> None:
    areas = [Area(0, P, 3), Area(P, 2 * P, 3, LOCKED), Area(2 * P, 3 * P, 3)]
    assert calls.pieces(discard(0, 3 * P, advice), areas) == [
        Piece(Area(0, P, 3), empty=True),
        Piece(Area(2 * P, 3 * P, 3), empty=False),
    ]
    assert calls.pieces(discard(P, 2 * P, advice), areas) == []
    locked = Piece(Area(P, 2 * P, 3, LOCKED), empty=True)
    assert calls.pieces(discard(P, 2 * P, calls.DONTNEED_LOCKED), areas) == [locked]


def test_what_is_kept() -> None:
    areas = [Area(0, P, 3), Area(P, 2 * P, 3, LOCKED)]
    assert calls.pieces(Wish(KEEP, ((0, 4 * P),), joined=True), areas) == [
        Piece(Area(0, P, 3), empty=False),
        Piece(Area(P, 2 * P, 3, LOCKED), empty=False),
    ]
    for kind in (NOTHING, FLAGS, NAME, REFUSE):
        assert calls.pieces(Wish(kind, ((0, 4 * P),)), areas) == []


@given(
    st.sampled_from([bpf.X86_64, bpf.I386, 5]),
    st.integers(0, 450),
    st.tuples(*[st.integers(0, (1 << 64) - 1)] * 6),
)
def test_any_call_has_a_wish(arch: int, number: int, arguments: tuple[int, ...]) -> None:
    found = calls.wish(arch, number, arguments, unreadable)
    assert all(start < end and start % P == end % P == 0 for start, end in found.ranges)
