from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.guard import filter as bpf
from tests.unit.shim.guard.bpf import data, run

UNIT = 1 << 16
TOP = 1 << 47

addresses = st.one_of(
    st.integers(0, TOP // 4096 - 1).map(lambda page: page * 4096),
    st.integers(0, 64).map(lambda page: page * 4096),
)
lengths = st.one_of(st.integers(1, 1 << 40), st.integers(1, 40).map(lambda page: page * 4096))
ranges = st.lists(
    st.tuples(addresses, lengths).map(lambda one: (one[0], min(one[0] + one[1], TOP))),
    min_size=1,
    max_size=100,
)
words = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 1 << 22),
    st.builds(lambda high, low: high << 32 | low, st.integers(0, 1 << 16), st.integers(0, 3)),
    addresses,
)


def touches(spans: list[tuple[int, int]], start: int, length: int) -> bool:
    return any(start < end and first < start + length for first, end in spans)


def near(spans: list[tuple[int, int]], start: int, length: int) -> bool:
    """Whether the filter may take it for touching: units of 64 KiB, and merged ranges."""
    merged = [(first * UNIT, end * UNIT) for first, end in bpf.intervals(spans)]
    return any(start // UNIT * UNIT < end and first <= start + length for first, end in merged)


def check(answer: int, spans: list[tuple[int, int]], start: int, length: int) -> None:
    """Whoever touches a range is told of; who is told of is at least near one."""
    if touches(spans, start, length):
        assert answer == bpf.NOTIFY
    elif not near(spans, start, length):
        assert answer == bpf.ALLOW
    assert answer in (bpf.ALLOW, bpf.NOTIFY)


@given(ranges)
def test_intervals_cover_the_ranges(spans: list[tuple[int, int]]) -> None:
    found = bpf.intervals(spans)
    assert 1 <= len(found) <= bpf.MOST
    assert all(first < end for first, end in found)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))
    for start, end in spans:
        assert any(first * UNIT <= start and end <= last * UNIT for first, last in found)


@given(st.lists(st.integers(0, 1 << 30), min_size=1, max_size=bpf.MOST, unique=True))
def test_few_ranges_are_only_rounded(firsts: list[int]) -> None:
    spans = [(2 * first * UNIT + 4096, 2 * first * UNIT + 8192) for first in firsts]
    assert bpf.intervals(spans) == [(2 * first, 2 * first + 1) for first in sorted(firsts)]


@pytest.mark.parametrize("span", [(-4096, 4096), (4096, 4096), (8192, 4096), (0, (1 << 48) + 1)])
def test_what_is_no_range_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no range"):
        bpf.build([span])


@given(ranges, words, words, st.integers(0, 110), st.booleans())
def test_madvise(
    spans: list[tuple[int, int]],
    start: int,
    length: int,
    advice: int,
    native: bool,  # noqa: FBT001
) -> None:
    given_data = (
        data(bpf.MADVISE, (start, length, advice | 1 << 40))
        if native
        else data(bpf.I386_MADVISE, (start, length, advice), arch=bpf.I386)
    )
    answer = run(bpf.build(spans), given_data)
    if advice in bpf.HARMLESS:
        assert answer == bpf.ALLOW
    elif start + length < 1 << 64:
        check(answer, spans, start, length)


@given(ranges, st.data())
def test_a_range_that_touches_is_never_missed(
    spans: list[tuple[int, int]], draw: st.DataObject
) -> None:
    start, end = draw.draw(st.sampled_from(spans))
    first = draw.draw(st.integers(max(0, start - (1 << 33)), end - 1))
    length = draw.draw(st.integers(max(1, start - first + 1), 1 << 48))
    assert run(bpf.build(spans), data(bpf.MADVISE, (first, length, 4))) == bpf.NOTIFY


@given(ranges, words, words, words, st.integers(0, 7))
def test_mremap(spans: list[tuple[int, int]], start: int, old: int, new: int, flags: int) -> None:
    answer = run(bpf.build(spans), data(bpf.MREMAP, (start, old, new, flags)))
    if new <= old and not flags & 6:
        assert answer == bpf.ALLOW
    elif start + old < 1 << 64:
        check(answer, spans, start, old)


@given(ranges, words, words)
def test_names_and_keys(spans: list[tuple[int, int]], start: int, length: int) -> None:
    program = bpf.build(spans)
    if start + length < 1 << 64:
        named = run(program, data(bpf.PRCTL, (bpf.PR_SET_VMA, 0, start, length)))
        check(named, spans, start, length)
        check(run(program, data(bpf.PKEY_MPROTECT, (start, length, 3, 1))), spans, start, length)
    assert run(program, data(bpf.PRCTL, (15, 0, start, length))) == bpf.ALLOW


def test_calls_whose_ranges_are_in_memory() -> None:
    program = bpf.build([(1 << 40, 1 << 41)])
    for command in (bpf.UFFDIO_REGISTER, bpf.UFFDIO_MOVE):
        assert run(program, data(bpf.IOCTL, (5, command, 1))) == bpf.NOTIFY
    assert run(program, data(bpf.IOCTL, (5, 0x5401, 1))) == bpf.ALLOW
    for advice in range(110):
        answer = run(program, data(bpf.PROCESS_MADVISE, (5, 1, 1, advice, 0)))
        assert answer == (bpf.ALLOW if advice in bpf.HARMLESS else bpf.NOTIFY)


STOPPED = {bpf.MREMAP, bpf.MADVISE, bpf.IOCTL, bpf.PRCTL, bpf.PKEY_MPROTECT, bpf.PROCESS_MADVISE}


@pytest.mark.parametrize(
    ("arch", "stopped"),
    [
        (bpf.X86_64, STOPPED),
        (bpf.I386, {bpf.I386_MADVISE, bpf.I386_MREMAP}),
        (0xC00000B7, set()),  # AArch64
    ],
)
def test_all_other_calls_are_allowed_by_their_number_alone(arch: int, stopped: set[int]) -> None:
    """So that the kernel's bitmap has them, and no program runs for them."""
    program = bpf.build([(0, TOP)])
    everything = (1 << 64) - 1
    for number in [*range(600), 0x40000000 + bpf.MADVISE]:
        given_data = data(number, (everything,) * 6, arch=arch)
        answer = run(program, given_data, constant=True)
        assert answer == (-1 if number in stopped else bpf.ALLOW)


@given(ranges)
def test_a_filter_of_ours_is_known(spans: list[tuple[int, int]]) -> None:
    assert bpf.is_ours(bpf.build(spans))


@given(ranges, st.data())
def test_a_filter_with_any_change_is_not_ours(
    spans: list[tuple[int, int]], draw: st.DataObject
) -> None:
    program = bytearray(bpf.build(spans))
    at = draw.draw(st.integers(0, len(program) - 1))
    program[at] ^= draw.draw(st.integers(1, 255))
    if bpf.is_ours(bytes(program)):  # other ranges make another filter of ours
        code = [*struct.iter_unpack("=HBBI", program)]
        assert code[at // 8][0] == 0x35
        assert at % 8 >= 4


@pytest.mark.parametrize("program", [b"", b"\x06\0\0\0\0\0\xff\x7f", bytes(8 * 300), bytes(7)])
def test_other_filters_are_not_ours(program: bytes) -> None:
    assert not bpf.is_ours(program)
