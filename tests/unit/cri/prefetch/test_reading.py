from __future__ import annotations

import mmap
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cri.prefetch import reading
from cri.prefetch.cache import resident
from cri.prefetch.reading import PIECE, Amount, Gate, Reader, Step, Throttle

MIB = 1 << 20
ALL = 1 << 60


class Cold:
    """A file, dropped from the page cache."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        with path.open("wb") as file:
            file.write(os.urandom(MIB) * (size // MIB))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert self.cached() == 0

    def cached(self, start: int = 0, end: int | None = None) -> int:
        """Bytes in the page cache."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return resident(fd, start, self.size if end is None else end)
        finally:
            os.close(fd)

    def step(self, *ranges: tuple[int, int], name: str = "rest", waits: bool = False) -> Step:
        return Step(name=name, path=self.path, ranges=ranges or [(0, self.size)], waits=waits)


@pytest.fixture
def cold(tmp_path: Path) -> Cold:
    return Cold(tmp_path / "pages", 32 * MIB)


@pytest.fixture
def reader() -> Reader:
    return Reader(Throttle(None), Gate())


class TestReader:
    def test_reads_a_file(self, reader: Reader, cold: Cold) -> None:
        reader.run([cold.step()], most=ALL)
        assert cold.cached() == cold.size
        assert reader.report.amounts == {"rest": Amount(read=cold.size)}
        assert reader.report.stopped == ""
        assert reader.report.seconds > 0

    def test_reads_small_ranges_and_nothing_beside_them(self, reader: Reader, cold: Cold) -> None:
        wanted = [(at * MIB, at * MIB + 65536) for at in (9, 3, 30)]
        reader.run([cold.step(*wanted, name="hot")], most=ALL)
        assert [cold.cached(*one) for one in wanted] == [65536] * 3
        assert cold.cached() == 3 * 65536
        assert reader.report.amounts == {"hot": Amount(read=3 * 65536)}

    def test_what_is_cached_is_not_read_again(self, reader: Reader, cold: Cold) -> None:
        with cold.path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            os.pread(file.fileno(), PIECE + 4096, 2 * PIECE)
        gone = Step(name="images", path=cold.path.with_name("gone"), ranges=[(0, 1)])
        steps = reader.look(
            [gone, cold.step((0, PIECE), name="hot"), cold.step((PIECE, cold.size))]
        )
        # A piece of which something is cached is read as a whole.
        rest = [(at, at + PIECE) for at in range(3 * PIECE, cold.size, PIECE)]
        assert steps == [
            cold.step((0, PIECE), name="hot"),
            cold.step((PIECE, 2 * PIECE), *rest),
        ]
        reader.run(steps, most=ALL)
        assert cold.cached() == cold.size
        assert reader.report.amounts == {
            "images": Amount(),
            "hot": Amount(read=PIECE),
            "rest": Amount(read=cold.size - 2 * PIECE, cached=PIECE),
        }

    def test_reads_in_the_order_that_it_was_given(
        self, reader: Reader, cold: Cold, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[int] = []
        read, ask = reading._read, Reader._ask

        def reading_it(fd: int, piece: tuple[int, int], buffer: memoryview) -> None:
            order.append(piece[0])
            read(fd, piece, buffer)

        def asking_for_it(self: Reader, fd: int, piece: tuple[int, int]) -> None:
            order.append(piece[0])
            ask(self, fd, piece)

        monkeypatch.setattr(reading, "_read", reading_it)
        monkeypatch.setattr(Reader, "_ask", asking_for_it)
        steps = [cold.step((20 * MIB, 21 * MIB), (0, 65536)), cold.step((4 * MIB, 4 * MIB + 4096))]
        reader.run(steps, most=ALL)
        assert order == [20 * MIB, 0, 4 * MIB]

    def test_fine_leaves_single_pages(self, reader: Reader, cold: Cold) -> None:
        """A fault then maps 16 pages at most, and not a large folio."""
        reader.run([replace(cold.step((0, 8 * MIB)), fine=True)], most=ALL)
        assert cold.cached() == 8 * MIB
        with (
            cold.path.open("rb") as file,
            mmap.mmap(file.fileno(), cold.size, prot=mmap.PROT_READ) as memory,
        ):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            assert len(memory[: 8 * MIB : 4096]) == 2048
            assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before >= 2048 // 16

    def test_keeps_the_limit_of_memory(self, reader: Reader, cold: Cold) -> None:
        reader.run([cold.step()], most=2 * PIECE + 5)
        assert reader.report.read == 2 * PIECE
        assert reader.report.stopped == "memory"

    def test_a_file_that_is_gone_is_left_out(self, reader: Reader, cold: Cold) -> None:
        gone = Step(name="images", path=cold.path.with_name("gone"), ranges=[(0, 1)])
        reader.run([gone, cold.step()], most=ALL)
        assert reader.report.read == cold.size

    def test_a_link_is_not_followed(self, reader: Reader, cold: Cold) -> None:
        link = cold.path.with_name("link")
        link.symlink_to(cold.path)
        with pytest.raises(OSError, match="symbolic link"):
            reader.run([Step(name="images", path=link, ranges=[(0, 1)])], most=ALL)

    def test_a_file_that_is_shorter_than_told_ends(self, reader: Reader, cold: Cold) -> None:
        reader.run([cold.step((0, cold.size + 2 * PIECE))], most=ALL)
        assert cold.cached() == cold.size

    def test_a_cancelled_one_reads_nothing(self, reader: Reader, cold: Cold) -> None:
        reader.cancel()
        reader.run([cold.step()], most=ALL)
        assert cold.cached() == 0
        assert reader.report.stopped == "cancelled"

    def test_it_is_cancelled_while_it_waits_for_its_turn(self, cold: Cold) -> None:
        reader = Reader(Throttle(1000), Gate())  # over an hour for the second piece
        thread = threading.Thread(target=reader.run, args=([cold.step()],), kwargs={"most": ALL})
        thread.start()
        while reader.report.read < PIECE:
            time.sleep(0.001)
        reader.cancel()
        thread.join(5)
        assert not thread.is_alive()
        assert reader.report.read == PIECE
        assert reader.report.stopped == "cancelled"


class TestGivingWay:
    def test_the_rest_waits_until_no_restore_is_under_way(self, cold: Cold) -> None:
        gate = Gate()
        reader = Reader(Throttle(None), gate)
        steps = [cold.step((0, MIB), name="hot"), cold.step(waits=True)]
        thread = threading.Thread(target=reader.run, args=(steps,), kwargs={"most": ALL})
        with gate.closed(), gate.closed():
            thread.start()
            time.sleep(0.2)
            assert reader.report.amounts["hot"].read == MIB
            assert reader.report.amounts["rest"].read == 0
        thread.join(10)
        assert cold.cached() == cold.size

    def test_but_not_for_ever(self, cold: Cold, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading, "_PATIENCE", 0.1)
        gate = Gate()
        reader = Reader(Throttle(None), gate)
        with gate.closed():
            reader.run([cold.step(waits=True)], most=ALL)
        assert cold.cached() == cold.size

    def test_and_can_be_cancelled_meanwhile(self, cold: Cold) -> None:
        gate = Gate()
        reader = Reader(Throttle(None), gate)
        timer = threading.Timer(0.1, reader.cancel)
        timer.start()
        with gate.closed():
            reader.run([cold.step(waits=True)], most=ALL)
        assert reader.report.read == 0

    def test_only_what_waits_has_a_low_priority(self) -> None:
        """In a process of its own, whose priority nobody else needs."""
        script = """
import ctypes, platform
from cri.prefetch import reading
number = {"x86_64": 252, "aarch64": 31}[platform.machine()]
get = lambda: ctypes.CDLL(None).syscall(number, 1, 0)
before = get()
with reading._lowered():
    print(get() == 2 << 13 | 7)
print(get() == before)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["True", "True"]


class TestThrottle:
    def test_without_a_bandwidth_nobody_waits(self) -> None:
        assert Throttle(None).take(1 << 40) == 0

    def test_bytes_take_their_time(self) -> None:
        now = [100.0]
        throttle = Throttle(1000, lambda: now[0])
        assert throttle.take(500) == 0
        assert throttle.take(2000) == pytest.approx(0.5)
        assert throttle.take(1) == pytest.approx(2.5)
        now[0] += 10
        assert throttle.take(1) == 0

    def test_a_reader_keeps_it(self, cold: Cold) -> None:
        reader = Reader(Throttle(64 * MIB), Gate())
        began = time.monotonic()
        reader.run([cold.step()], most=ALL)
        # The last piece is waited for, not its time.
        assert time.monotonic() - began >= (cold.size - PIECE) / (64 * MIB)
