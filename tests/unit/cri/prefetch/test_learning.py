from __future__ import annotations

import asyncio
import mmap
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from cri import pagemap, processes
from cri.prefetch.hot import RUNS, Hot, HotPages
from cri.prefetch.learning import LOOKS, Learner
from cri.prefetch.ranges import Range

PAGE = mmap.PAGESIZE
SIZE = 64 << 20
MIB = 1 << 20
DIGEST = "sha256:" + "d" * 64


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a snapshot whose pages are a hole; that is enough to map it."""
    (tmp_path / "pages").touch()
    os.truncate(tmp_path / "pages", SIZE)
    return tmp_path


@pytest.fixture
def hot(tmp_path: Path) -> HotPages:
    return HotPages(tmp_path / "state")


class Replica:
    """A process that has the file mapped and writes to pages when it is told to."""

    def __init__(self, pages: Path) -> None:
        self.containers = ["c"]
        script = (
            "import mmap, sys\n"
            f"file = open({str(pages)!r}, 'rb')\n"
            f"memory = mmap.mmap(file.fileno(), {SIZE}, flags=mmap.MAP_PRIVATE, prot=3)\n"
            "print(flush=True)\n"
            "for line in sys.stdin: memory[int(line)] = 1; print(flush=True)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._answer()

    def touch(self, *offsets: int) -> None:
        assert self.process.stdin is not None
        for offset in offsets:
            self.process.stdin.write(f"{offset}\n")
            self._answer()

    def runs(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        self.process.communicate()

    def _answer(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.readline()


@pytest.fixture
def replica(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    """It is found as a container's only process, and shows its mapping as a container would."""
    made = Replica(folder / "pages")
    pid = made.process.pid
    fake = tmp_path / "proc" / str(pid)
    fake.mkdir(parents=True)
    maps = Path(f"/proc/{pid}/maps").read_text()
    (fake / "maps").write_text(maps.replace(str(folder / "pages"), "/.podthaw-pages"))
    (fake / "pagemap").symlink_to(f"/proc/{pid}/pagemap")
    touched = pagemap.touched
    monkeypatch.setattr(pagemap, "touched", lambda pid: touched(pid, proc=tmp_path / "proc"))
    monkeypatch.setattr(
        processes,
        "of_container",
        lambda container, _: [pid] if container in made.containers and made.runs() else [],
    )
    yield made
    made.end()


def page(at: int) -> Range:
    return at, at + PAGE


class TestLearner:
    def test_in_the_order_of_touching(self, folder: Path, hot: HotPages, replica: Replica) -> None:
        replica.touch(40 * MIB)

        async def work() -> None:
            learner = Learner(hot, Path("/unused"), looks=(0, 0.5))
            watching = asyncio.ensure_future(learner.learn("c", DIGEST, folder))
            while not hot.get(DIGEST, SIZE).ranges:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert hot.get(DIGEST, SIZE).runs == 0
            replica.touch(10 * MIB, 10 * MIB + 2 * PAGE)
            await watching

        run(work())
        known = hot.get(DIGEST, SIZE)
        assert known.ranges == (page(40 * MIB), (10 * MIB, 10 * MIB + 3 * PAGE))
        assert known.runs == 1

    def test_what_a_later_replica_touches_is_added(
        self, folder: Path, hot: HotPages, replica: Replica
    ) -> None:
        hot.put(DIGEST, Hot(size=SIZE, runs=1).touched([page(0)]))
        replica.touch(10 * MIB)
        run(Learner(hot, Path("/unused"), looks=(0,)).learn("c", DIGEST, folder))
        assert hot.get(DIGEST, SIZE) == Hot(size=SIZE, runs=2, ranges=(page(0), page(10 * MIB)))

    @pytest.mark.usefixtures("replica")
    def test_a_node_that_knows_enough_looks_no_more(self, folder: Path, hot: HotPages) -> None:
        enough = Hot(size=SIZE, runs=RUNS)
        hot.put(DIGEST, enough)
        began = asyncio.wait_for(
            Learner(hot, Path("/unused"), looks=(3600,)).learn("c", DIGEST, folder), 5
        )
        run(began)
        assert hot.get(DIGEST, SIZE) == enough

    def test_one_replica_is_watched_at_a_time(
        self, folder: Path, hot: HotPages, replica: Replica
    ) -> None:
        replica.touch(0)

        async def work() -> None:
            learner = Learner(hot, Path("/unused"), looks=(0.05,))
            await asyncio.gather(*(learner.learn("c", DIGEST, folder) for _ in range(8)))
            assert hot.get(DIGEST, SIZE).runs == 1
            await learner.learn("c", DIGEST, folder)
            assert hot.get(DIGEST, SIZE).runs == 2

        run(work())

    def test_a_container_that_ends_early(
        self, folder: Path, hot: HotPages, replica: Replica
    ) -> None:
        replica.touch(0)

        async def work() -> None:
            learner = Learner(hot, Path("/unused"), looks=(0, 0.3, 3600))
            watching = asyncio.ensure_future(learner.learn("c", DIGEST, folder))
            while not hot.get(DIGEST, SIZE).ranges:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            replica.end()
            await asyncio.wait_for(watching, 5)

        run(work())
        assert hot.get(DIGEST, SIZE) == Hot(size=SIZE, runs=1, ranges=(page(0),))

    def test_the_next_replica_takes_the_place_of_one_that_is_gone(
        self, folder: Path, hot: HotPages, replica: Replica
    ) -> None:
        replica.containers.append("other")
        replica.touch(0)

        async def work() -> None:
            learner = Learner(hot, Path("/unused"), looks=(0, 3600))
            other = asyncio.ensure_future(learner.learn("other", DIGEST, folder))
            while not hot.get(DIGEST, SIZE).ranges:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            replica.touch(10 * MIB)
            await learner.learn("c", DIGEST, folder)
            assert not other.done()
            replica.containers.remove("other")
            watching = asyncio.ensure_future(learner.learn("c", DIGEST, folder))
            while len(hot.get(DIGEST, SIZE).ranges) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.wait_for(other, 5)
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching
            assert learner._watched == {}

        run(work())

    def test_one_that_never_ran_teaches_nothing(
        self, folder: Path, hot: HotPages, tmp_path: Path
    ) -> None:
        run(Learner(hot, tmp_path, looks=(0, 3600)).learn("c", DIGEST, folder))
        assert hot.get(DIGEST, SIZE) == Hot(size=SIZE)

    def test_a_snapshot_without_mapped_memory(self, hot: HotPages, tmp_path: Path) -> None:
        run(Learner(hot, tmp_path, looks=(3600,)).learn("c", DIGEST, tmp_path))

    def test_what_cannot_be_noted_is_an_error(
        self, folder: Path, replica: Replica, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        replica.touch(0)
        learner = Learner(HotPages(tmp_path / "file"), Path("/unused"), looks=(0,))
        with pytest.raises(OSError, match="Not a directory"):
            run(learner.learn("c", DIGEST, folder))

    def test_it_takes_half_a_minute(self) -> None:
        assert sum(LOOKS) == pytest.approx(30)
