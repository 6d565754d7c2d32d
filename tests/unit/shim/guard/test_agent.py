"""The agent against the kernel: what madvise and the like do to mapped memory, once guarded."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from tests.unit.shim.guard.conftest import PAGES, Target, content

Wait = Callable[[Callable[[], object]], None]

DONTNEED, FREE, REMOVE, DONTFORK, DONTDUMP = 4, 8, 9, 10, 16
WIPEONFORK, DONTNEED_LOCKED, GUARD_INSTALL, GUARD_REMOVE = 18, 24, 102, 103


@pytest.mark.parametrize("advice", [DONTNEED, FREE, DONTNEED_LOCKED])
def test_discarded_memory_reads_zero_and_its_neighbours_stay(target: Target, advice: int) -> None:
    target("write(100, 77, 5)")
    assert target(f"madvise(101, 1, {advice})") == 0
    assert target("every(98, 6)") == [*content(98, 3), 0, *content(102, 2)]
    assert target("read(100, 5)") == 77
    assert target(f"madvise(200, 300, {advice})") == 0
    assert target("every(198, 304)") == [*content(198, 2), *[0] * 300, *content(500, 2)]
    assert target("write(300, 9), read(300), read(300, 1)")[1:] == [9, 0]


def test_small_pieces_do_not_split_the_mapping_into_as_many(target: Target) -> None:
    for page in range(0, PAGES, 2):
        assert target(f"madvise({page}, 1, {DONTNEED})") == 0
    assert target(f"every(0, {PAGES})") == [
        0 if page % 2 == 0 else 1 + page % 250 for page in range(PAGES)
    ]
    assert target("lines()") == [f"0-{PAGES} rw-p anonymous"]


def test_a_descriptor_is_not_left_in_the_process(target: Target) -> None:
    links = target("[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
                   " if os.path.exists(f'/proc/self/fd/{n}')]")  # fmt: skip
    assert not [link for link in links if "seccomp" in link]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("call(28, base + 1, PAGE, 4)", errno.EINVAL),
        ("call(28, base, 0, 4)", 0),
        ("call(28, base, 2**64 - 1, 4)", errno.EINVAL),
        ("call(25, base, PAGE, 0, 1)", errno.EINVAL),
        ("call(25, base + 1, PAGE, 2 * PAGE, 1)", errno.EINVAL),
        ("call(25, base, PAGE, 2 * PAGE, 2, base)", errno.EINVAL),
        ("call(28, base, PAGE, 9)", errno.EINVAL),
        ("call(440, -1, 8, 1, 4, 0)", errno.EFAULT),
        ("call(16, 0, 0xc020aa00, 8)", errno.ENOTTY),
    ],
)
def test_the_kernel_answers_what_it_refuses(target: Target, code: str, error: int) -> None:
    assert target(code) == -error
    assert target("every(0, 4)") == content(0, 4)
    assert target("lines()") == [f"0-{PAGES} rw-p file"]


def test_a_hole_in_the_range_gives_enomem_and_the_rest_is_discarded(target: Target) -> None:
    assert target("call(11, base + 10 * PAGE, PAGE)") == 0
    assert target(f"madvise(5, 20, {DONTNEED})") == -errno.ENOMEM
    assert target("every(3, 7), every(11, 16)") == [
        [*content(3, 2), *[0] * 5],
        [*[0] * 14, *content(25, 2)],
    ]


def test_locked_memory_cannot_be_discarded(target: Target) -> None:
    assert target("call(149, base + 32 * PAGE, 32 * PAGE)") == 0
    locked = "int(open('/proc/self/status').read().split('VmLck:')[1].split()[0])"
    assert target(locked) == 128
    assert target(f"madvise(16, 32, {DONTNEED})") == -errno.EINVAL
    assert target("every(14, 36)") == [*content(14, 2), *[0] * 16, *content(32, 18)]
    assert target(f"madvise(40, 4, {DONTNEED_LOCKED})") == 0
    assert target("every(38, 8)") == [*content(38, 2), *[0] * 4, *content(44, 2)]
    assert target(locked) == 128


@pytest.mark.parametrize("prot", [0, 1, 5])
def test_protection_stays(target: Target, prot: int) -> None:
    assert target(f"call(10, base + 64 * PAGE, 64 * PAGE, {prot})") == 0
    before = target("lines()")
    assert target(f"madvise(70, 2, {DONTNEED})") == 0
    assert target(f"madvise(96, 32, {DONTNEED})") == 0
    assert [line.split()[1] for line in target("lines()") if "anonymous" in line] == [
        before[1].split()[1]
    ] * 2
    assert target("call(10, base + 64 * PAGE, 64 * PAGE, 3)") == 0
    assert target("every(68, 6), every(94, 36)") == [
        [*content(68, 2), 0, 0, *content(72, 2)],
        [*content(94, 2), *[0] * 32, *content(128, 2)],
    ]


def test_what_is_wiped_on_fork_keeps_its_content_here(target: Target) -> None:
    assert target("call(10, base + 8 * PAGE, 8 * PAGE, 0)") == 0
    assert target(f"madvise(4, 16, {WIPEONFORK})") == 0
    assert target("call(10, base + 8 * PAGE, 8 * PAGE, 3)") == 0
    assert target("every(0, 24)") == content(0, 24)
    target(
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n    os.write(w, bytes(every(0, 24)))\n    os._exit(0)"
    )
    assert target("list(os.read(r, 100))") == [*content(0, 4), *[0] * 16, *content(20, 4)]


def test_memory_that_grows_or_moves_keeps_its_content_and_is_zero_behind(target: Target) -> None:
    assert target("call(11, base + 100 * PAGE, 20 * PAGE)") == 0
    assert target("call(25, base + 90 * PAGE, 10 * PAGE, 15 * PAGE, 0) - base") == 90 * 4096
    assert target("every(88, 17)") == [*content(88, 12), *[0] * 5]
    target("other = call(25, base + 200 * PAGE, 8 * PAGE, 2000 * PAGE, 1)")
    seen = "[ctypes.c_ubyte.from_address(other + n * PAGE).value for n in range(10)]"
    assert target(seen) == [*content(200, 8), 0, 0]
    assert target("call(25, other, 2000 * PAGE, 2000 * PAGE, 3, base + 4000 * PAGE) == base + "
                  "4000 * PAGE and every(4000, 9)") == [*content(200, 8), 0]  # fmt: skip
    assert target("call(28, base + 4000 * PAGE, PAGE, 4), every(4000, 2)") == [
        0,
        [0, *content(201, 1)],
    ]


APART = """
for first, last in ((40, 44), (8, 12), (24, 30)):
    madvise(first, last - first, 4)
    write(first, 9)
    if {fork}:
        child = os.fork()
        if child == 0: os._exit(0)
        os.waitpid(child, 0)
"""


@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_parts_that_became_anonymous_apart_are_one_mapping(
    target: Target, *, fork: bool, mapped: bool
) -> None:
    """As they were before: mremap refuses a range in several mappings (EFAULT)."""
    target("call(11, base + 64 * PAGE, 100 * PAGE)")
    target(APART.format(fork=fork))
    wanted = content(0, 64)
    for first, last in ((40, 44), (8, 12), (24, 30)):
        wanted[first:last] = [9, *[0] * (last - first - 1)]
    if not mapped:  # what is left becomes anonymous as well, and nothing asks for it as a whole
        for first in range(0, 64, 2):
            target(f"kept = every({first}, 2); ")
            target(f"madvise({first}, 2, 4), [write({first} + n, kept[n]) for n in range(2)]")
    assert target("every(0, 64)") == wanted
    assert target("call(25, base, 64 * PAGE, 90 * PAGE, 0) - base") == 0
    assert target("every(0, 90)") == [*wanted, *[0] * 26]
    assert target("lines()[0]") == "0-90 rw-p anonymous"
    assert target("call(25, base + 8 * PAGE, 70 * PAGE, 90 * PAGE, 1) > 0")


def test_memory_moved_away_but_not_unmapped_is_zero(target: Target) -> None:
    target("other = call(25, base + 8 * PAGE, 8 * PAGE, 8 * PAGE, 5, 0)")
    assert target("ctypes.c_ubyte.from_address(other).value") == content(8, 1)[0]
    assert target("every(6, 12)") == [*content(6, 2), *[0] * 8, *content(16, 2)]


def test_what_shrinks_in_place_stays_mapped(target: Target) -> None:
    assert target("call(25, base + 8 * PAGE, 8 * PAGE, 4 * PAGE, 1) - base") == 8 * 4096
    assert target("lines()") == ["0-12 rw-p file", f"16-{PAGES} rw-p file"]


def test_a_userfaultfd_can_watch_it(target: Target) -> None:
    # UFFD_USER_MODE_ONLY; the features and the registration for missing pages.
    target("fd = call(323, 1 | 0o4000)")
    if target("fd") < 0:
        pytest.skip("this kernel has no userfaultfd")
    target("api = (ctypes.c_uint64 * 3)(0xAA)")
    assert target("call(16, fd, 0xc018aa3f, ctypes.addressof(api))") == 0
    target("register = (ctypes.c_uint64 * 4)(base + 8 * PAGE, 8 * PAGE, 1)")
    assert target("call(16, fd, 0xc020aa00, ctypes.addressof(register))") == 0
    assert target("every(0, 32)") == content(0, 32)


def test_a_guard_region_discards(target: Target) -> None:
    if target("madvise(8, 8, 102)") == -errno.EINVAL:
        pytest.skip("this kernel has no guard regions")
    assert target(f"madvise(8, 8, {GUARD_REMOVE})") == 0
    assert target("every(6, 12)") == [*content(6, 2), *[0] * 8, *content(16, 2)]


def test_process_madvise_on_itself(target: Target) -> None:
    target("vector = (ctypes.c_uint64 * 4)(base + 8 * PAGE, PAGE, base + 20 * PAGE, 2 * PAGE)")
    target("own = os.pidfd_open(os.getpid())")
    answer = target("call(440, own, ctypes.addressof(vector), 2, 4, 0)")
    if answer == -errno.EINVAL:
        pytest.skip("this kernel discards nothing by process_madvise")
    assert answer == 3 * 4096
    assert target("every(7, 3), every(19, 4)") == [
        [*content(7, 1), 0, *content(9, 1)],
        [*content(19, 1), 0, 0, *content(22, 1)],
    ]


def test_a_name_is_taken_or_refused_as_for_anonymous_memory(target: Target) -> None:
    target("name = ctypes.create_string_buffer(b'name')")
    target("other = libc.mmap(0, PAGE, 3, 0x22, -1, 0)")
    wanted = target("call(157, 0x53564d41, 0, other, PAGE, ctypes.addressof(name))")
    assert target("call(157, 0x53564d41, 0, base, PAGE, ctypes.addressof(name))") == wanted


def test_flags_of_the_mapping_are_given_again(target: Target) -> None:
    assert target(f"madvise(0, 64, {DONTDUMP})") == 0
    assert target(f"madvise(32, 64, {DONTFORK})") == 0
    assert target(f"madvise(40, 1, {DONTNEED})") == 0
    flags = (
        "[set(line.split()) & {'dd', 'dc'} for part in open('/proc/self/smaps').read()"
        ".split(f'{base + 32 * PAGE:x}-')[1:] for line in part.splitlines()"
        " if 'VmFlags' in line][0]"
    )
    assert target(f"sorted({flags})") == ["dc", "dd"]
    assert target("lines()[1]") == "32-48 rw-p anonymous"


def test_pieces_that_were_apart_and_are_joined_again(target: Target) -> None:
    assert target("call(10, base + 64 * PAGE, 64 * PAGE, 1)") == 0
    assert target(f"madvise(0, 16, {DONTNEED})") == 0  # the mappings are looked at
    assert target("call(10, base + 64 * PAGE, 64 * PAGE, 3)") == 0
    assert target(f"madvise(56, 16, {DONTNEED})") == 0
    assert target("every(54, 20)") == [*content(54, 2), *[0] * 16, *content(72, 2)]


def test_memory_that_is_locked_from_now_on(target: Target) -> None:
    """MCL_FUTURE is for what is mapped later; the area was mapped before."""
    assert target("call(151, 2)") == 0
    assert target(f"madvise(16, 32, {DONTNEED})") == 0
    assert target("every(14, 36)") == [*content(14, 2), *[0] * 32, *content(48, 2)]
    flags = (
        "[line for part in open('/proc/self/smaps').read().split(f'{base + 16 * PAGE:x}-')[1:]"
        " for line in part.splitlines() if 'VmFlags' in line][0].split()"
    )
    assert "lo" not in target(flags)


OLD_CALL = """
import struct
machine = (b"\\x53\\xb8" + struct.pack("<I", 219) + b"\\xbb" + struct.pack("<I", base + 8 * PAGE)
    + b"\\xb9" + struct.pack("<I", 4 * PAGE) + b"\\xba\\x04\\0\\0\\0\\xcd\\x80\\x5b\\xc3")
at = libc.mmap(0x30000000, PAGE, 7, 0x100022, -1, 0)
ctypes.memmove(at, machine, len(machine))
old = ctypes.CFUNCTYPE(ctypes.c_int)(at)
"""


def test_a_call_of_the_32_bit_interface(low: Target) -> None:
    low(OLD_CALL)
    low("child = os.fork()\nif child == 0: os._exit(old() != 0 or sum(every(8, 4)) > 0)")
    if os.WIFSIGNALED(low("os.waitpid(child, 0)[1]")):
        pytest.skip("this kernel has no 32-bit interface")
    assert low("old()") == 0
    assert low("every(6, 8)") == [*content(6, 2), *[0] * 4, *content(12, 2)]
