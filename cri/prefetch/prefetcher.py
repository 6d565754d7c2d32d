"""Which pods want which snapshot: one reader for each, from the first that wants it to the last."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cri.prefetch import Mode, order, ranges
from cri.prefetch.hot import HotPages
from cri.prefetch.ranges import Range
from cri.prefetch.reading import Gate, Reader, Report, Throttle
from shim import snapshot
from shim.errors import PodthawError
from shim.memory import MEMORY, PAGES
from shim.memory.model import decode

log = logging.getLogger("podthaw.prefetch")

_READERS = 4
_SHARE = 2  # one n-th of the memory that is available may be filled
_MEMINFO = Path("/proc/meminfo")


class Pod:
    """A pod that wants snapshots; its sandbox may still be in the making."""

    def __init__(self) -> None:
        self.sandbox = ""
        self.asked: dict[str, float] = {}
        """Snapshot → when it asked last, by the monotonic clock."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What reading ahead may use."""

    mode: Mode = "all"
    bandwidth: int | None = None
    """Bytes a second, of all readers together."""
    memory: int | None = None
    """Bytes of page cache for one snapshot; never more than half of what is available."""


@dataclass
class _Running:
    reader: Reader
    wanted: set[Pod]
    work: asyncio.Future[None] = field(init=False)


class Prefetcher:
    """Belongs to one event loop; the readers run in threads of their own."""

    def __init__(
        self, limits: Limits, hot: HotPages, available: Callable[[], int] | None = None
    ) -> None:
        self._limits = limits
        self._hot = hot
        self._room = _Room(limits.memory, available or available_memory)
        self._throttle = Throttle(limits.bandwidth)
        self._gate = Gate()
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="prefetch")
        self._running: dict[str, _Running] = {}

    def want(self, pod: Pod, digest: str, folder: Path) -> None:
        """Read the snapshot in ``folder`` ahead for a pod, unless that is under way."""
        if self._limits.mode == "none":
            return
        running = self._running.get(digest)
        if running is not None and not running.reader.is_cancelled:
            running.wanted.add(pod)
            return
        running = _Running(Reader(self._throttle, self._gate), {pod})
        running.work = asyncio.ensure_future(self._run(running, digest, folder))
        self._running[digest] = running

    def release(self, pod: Pod, digest: str | None = None) -> None:
        """A pod does not want a snapshot, or any, any more: what nobody wants is not read on."""
        for one, running in self._running.items():
            if digest in (None, one) and pod in running.wanted:
                running.wanted.discard(pod)
                if not running.wanted:
                    running.reader.cancel()

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """A restore is under way: the rest of all snapshots waits."""
        with self._gate.closed():
            yield

    async def settle(self) -> None:
        """Wait until all that is wanted has been read."""
        while self._running:
            await asyncio.wait([one.work for one in self._running.values()])

    async def stop(self) -> None:
        """End every reader."""
        for running in self._running.values():
            running.reader.cancel()
        await self.settle()

    async def _run(self, running: _Running, digest: str, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, self._read, running.reader, digest, folder)
        except (OSError, PodthawError) as error:
            log.info("the snapshot %s was not read ahead: %s", digest, error)
        except Exception:
            # Reading ahead is no part of a start: whatever is wrong with it fails nothing.
            log.exception("reading the snapshot %s ahead failed", digest)
        else:
            _tell(digest, running.reader.report)
        finally:
            if self._running.get(digest) is running:
                del self._running[digest]

    def _read(self, reader: Reader, digest: str, folder: Path) -> None:
        manifest = snapshot.read(folder, digest)
        stored: list[Range] = []
        hot: tuple[Range, ...] = ()
        mapped = next((one for one in manifest.artifacts if one.path == PAGES), None)
        if mapped is not None:
            memory = decode((folder / MEMORY).read_bytes())
            stored = [(one.offset, one.offset + one.length) for one in memory.extents]
            hot = self._hot.get(digest, mapped.size).ranges
        steps = order.steps(
            folder, manifest.artifacts, stored=stored, hot=hot, mode=self._limits.mode
        )
        missing = reader.look(steps)
        size = sum(ranges.total(step.ranges) for step in missing)
        with self._room.taken(size) as room:
            if size > room:
                # Half a file helps nobody: what was read first would be gone when it is needed.
                missing = [step for step in missing if step.name != "rest"]
                reader.report.stopped = "memory"
            reader.run(missing, most=room)


class _Room:
    """Memory for readers; may be used by several threads."""

    def __init__(self, most: int | None, available: Callable[[], int]) -> None:
        self._most = most
        self._available = available
        self._taken = 0
        self._guard = threading.Lock()

    @contextmanager
    def taken(self, wanted: int) -> Iterator[int]:
        """Bytes that may be read, ``wanted`` at most or not much fewer, and kept for it."""
        with self._guard:
            room = max(0, self._available() // _SHARE - self._taken)
            room = room if self._most is None else min(room, self._most)
            mine = min(wanted, room)
            self._taken += mine
        try:
            yield room
        finally:
            with self._guard:
                self._taken -= mine


def available_memory(path: Path = _MEMINFO) -> int:
    """Bytes that programs could get without swapping (MemAvailable, proc_meminfo(5)).

    Page cache that can be dropped counts. Raises OSError.
    """
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _tell(digest: str, report: Report) -> None:
    fields: dict[str, object] = {
        "snapshot": digest,
        "bytes": report.read,
        "seconds": round(report.seconds, 3),
        "stopped": report.stopped,
    }
    for name, amount in report.amounts.items():
        fields[name] = amount.read
    log.log(
        logging.INFO if report.read else logging.DEBUG,
        "read %d bytes ahead",
        report.read,
        extra={"fields": fields},
    )
