from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cri import pagemap
from cri.pagemap import Mapping, Touched, parse_maps
from cri.prefetch.ranges import merge

PAGE = mmap.PAGESIZE
SIZE = 1024 * PAGE

MAPS = """\
55d0a0000000-55d0a0021000 r-xp 00000000 fe:00 123      /usr/bin/python3
7f0000000000-7f0000004000 rw-p 00000000 00:00 0
7f0000100000-7f0000104000 rw-p 00002000 fe:00 77                  /.podthaw-pages
7f0000200000-7f0000201000 r--p 00010000 fe:00 77                  /.podthaw-pages (deleted)
7f0000300000-7f0000301000 rw-p 00010000 fe:00 78                  /srv/.podthaw-pages
7f0000400000-7f0000401000 rw-p 00010000 fe:00 79                  /.podthaw-pages.old
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                   [stack]
"""


def test_mappings_of_the_snapshots_memory() -> None:
    assert parse_maps(MAPS) == [
        Mapping(0x7F0000100000, 0x7F0000104000, 0x2000),
        Mapping(0x7F0000200000, 0x7F0000201000, 0x10000),
    ]
    assert parse_maps("") == []


@dataclass
class Mine:
    """This process with a file mapped privately."""

    memory: mmap.mmap
    start: int

    def scan(self) -> list[tuple[int, int, bool]]:
        """Pages from the beginning of the mapping, merged."""
        fd = os.open("/proc/self/pagemap", os.O_RDONLY)
        try:
            found = list(pagemap.scan(fd, self.start, self.start + SIZE))
        finally:
            os.close(fd)
        return [
            ((low - self.start) // PAGE, (high - self.start) // PAGE, shared)
            for shared in (False, True)
            for low, high in merge((one.start, one.end) for one in found if one.shared is shared)
        ]


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Mine]:
    path = tmp_path / "mapped"
    path.write_bytes(b"x" * SIZE)
    with (
        path.open("rb") as file,
        mmap.mmap(
            file.fileno(), SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        ) as memory,
    ):
        maps = Path("/proc/self/maps").read_text().splitlines()
        line = next(one for one in maps if str(path) in one)
        yield Mine(memory, int(line.split("-")[0], 16))


@pytest.fixture(params=["ioctl", "old kernel"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With PAGEMAP_SCAN, and without."""
    if request.param == "old kernel":

        def unknown(*_: object) -> int:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

        monkeypatch.setattr(fcntl, "ioctl", unknown)


@pytest.mark.usefixtures("way")
class TestScan:
    def test_nothing_was_touched(self, mine: Mine) -> None:
        assert mine.scan() == []

    def test_what_was_written_is_known_exactly(self, mine: Mine) -> None:
        mine.memory[10 * PAGE] = 1
        mine.memory[700 * PAGE : 703 * PAGE] = b"y" * (3 * PAGE)
        assert mine.scan() == [(10, 11, False), (700, 703, False)]

    def test_what_was_read_is_shared(self, mine: Mine) -> None:
        assert mine.memory[512 * PAGE] == ord("x")
        found = mine.scan()
        assert any(low <= 512 < high for low, high, shared in found if shared)
        mine.memory[512 * PAGE] = 1
        found = mine.scan()
        assert [one for one in found if not one[2]] == [(512, 513, False)]
        assert not any(low <= 512 < high for low, high, shared in found if shared)

    def test_more_than_one_answer(self, mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pagemap, "_REGIONS", 3)
        monkeypatch.setattr(pagemap, "_READ", 7)
        for page in range(0, 40, 2):
            mine.memory[page * PAGE] = 1
        assert mine.scan() == [(page, page + 1, False) for page in range(0, 40, 2)]


def test_an_error_is_one(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            list(pagemap.scan(fd, 0, PAGE))
    finally:
        os.close(fd)


class TestTouched:
    def test_in_terms_of_the_file(self, tmp_path: Path) -> None:
        """Another process, and maps that say where the container sees the file."""
        script = (
            "import mmap, sys\n"
            f"file = open({str(tmp_path / 'pages')!r}, 'rb')\n"
            f"memory = mmap.mmap(file.fileno(), {SIZE // 2}, offset={SIZE // 2},"
            " flags=mmap.MAP_PRIVATE, prot=3)\n"
            f"memory[{PAGE}] = memory[{2 * PAGE}] = 1\n"
            "print(flush=True)\nsys.stdin.read()\n"
        )
        (tmp_path / "pages").write_bytes(b"x" * SIZE)
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            real = Path(f"/proc/{child.pid}")
            fake = tmp_path / "proc" / str(child.pid)
            fake.mkdir(parents=True)
            maps = (real / "maps").read_text()
            (fake / "maps").write_text(maps.replace(str(tmp_path / "pages"), "/.podthaw-pages"))
            (fake / "pagemap").symlink_to(real / "pagemap")
            found = list(pagemap.touched(child.pid, proc=tmp_path / "proc"))
            assert list(pagemap.touched(child.pid)) == []
            child.communicate()
        start = SIZE // 2 + PAGE
        assert [one for one in found if not one.shared] == [
            Touched(start, start + 2 * PAGE, shared=False)
        ]

    def test_a_process_that_is_gone(self) -> None:
        with pytest.raises(FileNotFoundError):
            list(pagemap.touched(2**22 + 1))
