from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cri.prefetch import prefetcher
from cri.prefetch.cache import resident
from cri.prefetch.hot import Hot, HotPages
from cri.prefetch.prefetcher import Limits, Pod, Prefetcher, available_memory
from cri.prefetch.reading import PIECE, Reader
from shim import snapshot
from shim.memory.model import Extent, Memory, encode
from shim.snapshot import Artifact
from tests.unit.cri import snapshots

MIB = 1 << 20
SIZE = 64 * MIB
STORED = [(0, 8 * MIB), (40 * MIB, 56 * MIB)]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def drop(path: Path) -> None:
    """Drop a file from the page cache; pages that are being written go only afterwards."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        for _ in range(500):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if not resident(file.fileno(), 0, max(1, path.stat().st_size)):
                return
            time.sleep(0.01)
    raise AssertionError(f"{path} stays in the page cache")


class Snapshot:
    """One with mapped memory, dropped from the page cache."""

    def __init__(self, folder: Path, seed: bytes = b"x") -> None:
        self.folder = folder
        self.pages = folder / "pages"
        extents = tuple(Extent(start, end - start) for start, end in STORED)
        memory = encode(Memory(size=SIZE, extents=extents))
        sums = b"the digests"
        folder.mkdir()
        files = {**snapshots.default_files(), "memory.json": memory, "pages.sums": sums}
        _, manifest = snapshots.write(folder, files)
        stored = sum(end - start for start, end in STORED)
        pages = Artifact(
            path="pages", size=SIZE, sha256=hashlib.sha256(sums).hexdigest(), holes=SIZE - stored
        )
        data = snapshot.encode(
            replace(manifest, memory="mapped", artifacts=[*manifest.artifacts, pages])
        )
        self.digest = snapshot.digest(data)
        (folder / "manifest.json").write_bytes(data)
        with self.pages.open("wb") as file:
            for start, end in STORED:
                file.seek(start)
                file.write(seed * (end - start))
            file.truncate(SIZE)
        for path in folder.rglob("*"):
            if path.is_file():
                drop(path)

    def cached(self, start: int = 0, end: int = SIZE, path: str = "pages") -> int:
        fd = os.open(self.folder / path, os.O_RDONLY)
        try:
            return resident(fd, start, end)
        finally:
            os.close(fd)


@pytest.fixture
def one(tmp_path: Path) -> Snapshot:
    return Snapshot(tmp_path / "one")


@pytest.fixture
def hot(tmp_path: Path) -> HotPages:
    return HotPages(tmp_path / "state")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Reader]:
    """Every reader that began."""
    begun: list[Reader] = []
    look = Reader.look

    def noting(self: Reader, *arguments: Any) -> Any:
        begun.append(self)
        return look(self, *arguments)

    monkeypatch.setattr(Reader, "look", noting)
    return begun


class TestReading:
    def test_all_is_read_and_no_hole(
        self, one: Snapshot, hot: HotPages, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "podthaw.prefetch")

        async def work() -> None:
            reading = Prefetcher(Limits(), hot)
            reading.want(Pod(), one.digest, one.folder)
            await reading.settle()

        run(work())
        assert [one.cached(*stored) for stored in STORED] == [8 * MIB, 16 * MIB]
        assert one.cached(24 * MIB, 40 * MIB) == 0
        assert one.cached(path="images/pages-1.img") > 0
        (record,) = caplog.records
        fields = record.__dict__["fields"]
        assert fields["rest"] == 24 * MIB
        assert fields["images"] > 300_000
        assert fields["bytes"] == fields["rest"] + fields["images"]
        assert fields["snapshot"] == one.digest
        assert fields["stopped"] == ""

    def test_hot_pages_come_first_and_the_rest_waits_for_restores(
        self, one: Snapshot, hot: HotPages
    ) -> None:
        hot.put(one.digest, Hot(size=SIZE).touched([(44 * MIB, 45 * MIB)]))

        async def work() -> None:
            reading = Prefetcher(Limits(), hot)
            with reading.restoring():
                reading.want(Pod(), one.digest, one.folder)
                while one.cached(44 * MIB, 45 * MIB) < MIB:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                assert one.cached(*STORED[0]) == 0
            await reading.settle()

        run(work())
        assert one.cached(*STORED[0]) == 8 * MIB

    def test_only_what_is_hot(self, one: Snapshot, hot: HotPages) -> None:
        hot.put(one.digest, Hot(size=SIZE).touched([(44 * MIB, 44 * MIB + 65536)]))

        async def work() -> None:
            reading = Prefetcher(Limits(mode="hot"), hot)
            reading.want(Pod(), one.digest, one.folder)
            await reading.settle()

        run(work())
        assert one.cached() == 65536

    def test_nothing(self, one: Snapshot, hot: HotPages, runs: list[Reader]) -> None:
        async def work() -> None:
            reading = Prefetcher(Limits(mode="none"), hot)
            reading.want(Pod(), one.digest, one.folder)
            await reading.settle()

        run(work())
        assert one.cached() == 0
        assert runs == []

    @pytest.mark.parametrize("limit", ["configured", "available"])
    def test_what_does_not_fit_into_memory_is_not_begun(
        self, one: Snapshot, hot: HotPages, limit: str
    ) -> None:
        hot.put(one.digest, Hot(size=SIZE).touched([(44 * MIB, 44 * MIB + 65536)]))
        limits = Limits(memory=20 * MIB if limit == "configured" else None)

        async def work() -> None:
            available = 40 * MIB if limit == "available" else 1 << 40
            reading = Prefetcher(limits, hot, lambda: available)
            reading.want(Pod(), one.digest, one.folder)
            await reading.settle()

        run(work())
        assert one.cached() == 65536

    def test_readers_share_the_memory(self, tmp_path: Path, hot: HotPages) -> None:
        first, second = Snapshot(tmp_path / "one", b"1"), Snapshot(tmp_path / "two", b"2")

        async def work() -> None:
            # For one of them, while the other is read.
            reading = Prefetcher(Limits(bandwidth=PIECE * 10), hot, lambda: 80 * MIB)
            reading.want(Pod(), first.digest, first.folder)
            while not first.cached():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            reading.want(Pod(), second.digest, second.folder)
            await reading.settle()

        run(work())
        assert first.cached(*STORED[1]) == 16 * MIB
        assert second.cached() == 0


class TestPods:
    def test_two_read_once(self, one: Snapshot, hot: HotPages, runs: list[Reader]) -> None:
        async def work() -> None:
            reading = Prefetcher(Limits(), hot)
            for _ in range(8):
                reading.want(Pod(), one.digest, one.folder)
            await reading.settle()

        run(work())
        assert len(runs) == 1
        assert runs[0].report.amounts["rest"].read == 24 * MIB

    def test_who_comes_later_finds_it_cached(
        self, one: Snapshot, hot: HotPages, runs: list[Reader]
    ) -> None:
        async def work() -> None:
            reading = Prefetcher(Limits(), hot)
            for _ in range(2):
                reading.want(Pod(), one.digest, one.folder)
                await reading.settle()

        run(work())
        assert [reader.report.read > 0 for reader in runs] == [True, False]

    def test_it_ends_with_the_last_that_wants_it(
        self, one: Snapshot, hot: HotPages, runs: list[Reader]
    ) -> None:
        first, second = Pod(), Pod()

        async def work() -> None:
            reading = Prefetcher(Limits(bandwidth=PIECE), hot)
            reading.want(first, one.digest, one.folder)
            reading.want(second, one.digest, one.folder)
            while not runs or not runs[0].report.read:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            reading.release(first)
            reading.release(second, "sha256:" + "0" * 64)
            states = [runs[0].is_cancelled]
            reading.release(second, one.digest)
            states.append(runs[0].is_cancelled)
            assert states == [False, True]
            await asyncio.wait_for(reading.settle(), 5)

        run(work())
        assert runs[0].report.stopped == "cancelled"
        assert runs[0].report.read < 24 * MIB

    def test_who_comes_when_it_is_just_ending_gets_another(
        self, one: Snapshot, hot: HotPages, runs: list[Reader]
    ) -> None:
        pod = Pod()

        async def work() -> None:
            reading = Prefetcher(Limits(), hot)
            reading.want(pod, one.digest, one.folder)
            reading.release(pod)
            reading.want(pod, one.digest, one.folder)
            await reading.settle()

        run(work())
        assert one.cached(*STORED[1]) == 16 * MIB
        assert [reader.is_cancelled for reader in runs].count(False) == 1

    def test_stopping_ends_all(self, one: Snapshot, hot: HotPages, runs: list[Reader]) -> None:
        async def work() -> None:
            reading = Prefetcher(Limits(bandwidth=1000), hot)
            reading.want(Pod(), one.digest, one.folder)
            while not runs:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.wait_for(reading.stop(), 5)

        run(work())
        assert runs[0].is_cancelled


class TestTrouble:
    @pytest.mark.parametrize("damage", ["gone", "manifest.json", "memory.json", "unexpected"])
    def test_is_logged_and_nothing_more(
        self,
        one: Snapshot,
        hot: HotPages,
        damage: str,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        caplog.set_level(logging.INFO, "podthaw.prefetch")
        folder = one.folder
        if damage == "gone":
            folder = folder / "gone"
        elif damage == "unexpected":
            monkeypatch.setattr(prefetcher, "decode", lambda _: 1 / 0)
        else:
            (folder / damage).write_text(json.dumps({"size": 7}))

        async def work() -> None:
            reading = Prefetcher(Limits(), hot)
            reading.want(Pod(), one.digest, folder)
            await reading.settle()

        run(work())
        (record,) = caplog.records
        assert one.digest in record.getMessage()
        assert bool(record.exc_info) == (damage == "unexpected")


def test_memory_that_is_available(tmp_path: Path) -> None:
    assert available_memory() > MIB
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       24684096 kB\nMemAvailable:     1000 kB\n")
    assert available_memory(path) == 1_024_000
    path.write_text("MemTotal:       24684096 kB\n")
    assert available_memory(path) == 0
