from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.guard import maps
from shim.guard.maps import Area

NAME = b"/.podthaw-pages"
MAPS = b"""\
00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/python3
00e03000-00e24000 rw-p 00003000 00:2a 77          /.podthaw-pages
00e24000-00f00000 rw-p 00000000 00:00 0           [heap]
7f0000000000-7f0000010000 r--p 00100000 00:2a 77  /.podthaw-pages
7f0000010000-7f0000020000 rw-p 00000000 00:00 0
7f0000020000-7f0000030000 rw-s 00000000 00:2a 77  /.podthaw-pages
7f0000030000-7f0000040000 ---p 00000000 00:2a 77  /.podthaw-pages
7f0000040000-7f0000050000 rw-p 00000000 00:2a 77  /other/.podthaw-pages
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0   [stack]
"""
SMAPS = b"""\
00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/python3
Size:                328 kB
VmFlags: rd ex mr mw me dd
7f0000000000-7f0000010000 rw-p 00100000 00:2a 77  /.podthaw-pages
Size:                 64 kB
ProtectionKey:         3
VmFlags: rd wr mr mw me ac dd lo hg
7f0000010000-7f0000020000 rw-p 00100000 00:2a 77  /.podthaw-pages
Size:                 64 kB
ProtectionKey:         0
VmFlags: rd wr mr mw me ac sd
7f0000020000-7f0000030000 rw-p 00000000 00:00 0
Size:                 64 kB
ProtectionKey:         0
VmFlags: rd wr mr mw me ac sd
"""


def test_private_mappings_of_the_file_are_areas() -> None:
    found, lines = maps.areas(MAPS, NAME)
    assert found == [
        Area(0xE03000, 0xE24000, 3),
        Area(0x7F0000000000, 0x7F0000010000, 1),
        Area(0x7F0000030000, 0x7F0000040000, 0),
    ]
    assert lines == 9


def test_details() -> None:
    assert maps.details(SMAPS, NAME) == [
        Area(0x7F0000000000, 0x7F0000010000, 3, frozenset({"dd", "lo", "hg"}), 3),
        Area(0x7F0000010000, 0x7F0000020000, 3),
    ]


def test_parts_have_what_the_whole_had() -> None:
    known = [Area(10, 20, 3, frozenset({"nr"}), 1), Area(20, 30, 3), Area(40, 50, 1)]
    found = [Area(10, 12, 3), Area(14, 16, 0), Area(22, 30, 3), Area(40, 50, 1)]
    assert maps.described(found, known) == [
        Area(10, 12, 3, frozenset({"nr"}), 1),
        Area(14, 16, 0, frozenset({"nr"}), 1),
        Area(22, 30, 3),
        Area(40, 50, 1),
    ]
    assert maps.described([], known) == []
    for other in (Area(15, 25, 3), Area(5, 12, 3), Area(30, 35, 3), Area(60, 70, 3)):
        assert maps.described([other], known) is None  # to be read anew


def test_details_of_this_process() -> None:
    """The kernel's own text is read, to its end."""
    name = os.fsencode(str(Path(os.__file__).resolve()))
    assert maps.details(Path("/proc/self/smaps").read_bytes(), name) == []
    text = Path("/proc/self/maps").read_bytes()
    program = next(line.split()[-1] for line in text.splitlines() if b"/" in line)
    found = maps.details(Path("/proc/self/smaps").read_bytes(), program)
    assert [(one.start, one.end, one.prot) for one in found] == [
        (one.start, one.end, one.prot) for one in maps.areas(text, program)[0]
    ]
    assert found


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (0xE03000, 0xE04000, True),
        (0xE00000, 0xE04000, True),  # behind a hole
        (0xE00000, 0xE03000, False),
        (0x451000, 0xE04000, False),
        (0xE24000, 0x7F0000010000, False),
        (0x7F0000020000, 0x7F0000040000, False),  # shared
        (0x7FFE00000000, 0x7FFE00001000, False),
    ],
)
def test_whether_the_first_is_ours(start: int, end: int, wanted: bool) -> None:  # noqa: FBT001
    assert maps.first_is(MAPS, NAME, start, end) == wanted


def test_inside_cuts_areas_to_a_range() -> None:
    areas = [Area(10, 20, 3, frozenset({"dd"}), 2), Area(30, 40, 1)]
    assert maps.inside(areas, 15, 35) == [Area(15, 20, 3, frozenset({"dd"}), 2), Area(30, 35, 1)]
    assert maps.inside(areas, 20, 30) == []


BASE = 0x7F0000000000


def lines(*modes: str, gap: int = 0) -> bytes:
    """Mappings of 64 KiB that follow each other: ``rw-p`` of nothing, ``rw-p/name`` of a file."""
    text, at = "", BASE
    for one in modes:
        mode, slash, name = one.partition("/")
        inode = "77" if slash else "0"
        named = f"    {slash}{name}" if slash else ("    " + mode[4:] if len(mode) > 4 else "")
        text += f"{at:x}-{at + 0x10000:x} {mode[:4]} 00000000 00:2a {inode}{named}\n"
        at += 0x10000 + gap
    return text.encode()


OURS = "rw-p/.podthaw-pages"


@pytest.mark.parametrize(
    ("modes", "is_whole"),
    [
        ((OURS, "rw-p", OURS), True),
        (("rw-p", "rw-p", "rw-p[heap]"), True),
        (("rw-p", "rw-p[anon:name]", OURS), True),
        ((OURS, "r--p", OURS), False),
        ((OURS, "rw-s", OURS), False),
        ((OURS, "rw-p/other", OURS), False),
        ((OURS, "rw-p[stack]", OURS), False),
    ],
)
def test_a_range_in_pieces_that_could_be_one(modes: tuple[str, ...], is_whole: bool) -> None:  # noqa: FBT001
    text = lines("r--p", *modes, "r--p")
    start, end = BASE + 0x10000, BASE + 0x40000
    wanted = Area(start + 4096, end, 3) if is_whole else None
    assert maps.whole(text, NAME, start + 4096, end) == wanted
    assert maps.whole(text, NAME, start + 4096, start + 8192) is None  # one mapping


def test_a_range_with_a_gap_is_not_one() -> None:
    assert maps.whole(lines(OURS, "rw-p", gap=4096), NAME, BASE, BASE + 0x21000) is None
    assert maps.whole(lines(OURS, "rw-p"), NAME, BASE, BASE + 0x30000) is None
    assert maps.whole(b"", NAME, BASE, BASE + 0x30000) is None


def test_pieces_with_other_flags_are_not_one() -> None:
    start, end = 0x7F0000010000, 0x7F0000030000
    assert maps.whole(SMAPS, NAME, start, end) == Area(start, end, 3)
    assert maps.whole(SMAPS, NAME, start - 4096, end) is None
    other = SMAPS.replace(b"ac sd\n", b"ac dc\n", 1)
    assert maps.whole(other, NAME, start, end) is None


def test_number() -> None:
    status = b"Name:\tx\nPid:\t12\nVmLck:\t     128 kB\nSeccomp:\t2\nSeccomp_filters:\t1\n"
    assert [maps.number(status, key) for key in (b"VmLck", b"Seccomp", b"Pid", b"No")] == [
        128,
        2,
        12,
        0,
    ]
