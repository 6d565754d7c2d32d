"""Reads ranges of files into the page cache, in the background: bounded, and out of the way.

Blocking; runs in a thread. Ranges are asked for ahead with ``posix_fadvise``, many at once, which
keeps a disk busy, reads nothing beside them, and leaves single pages in the cache. Or, when they
are large, they are read with ``preadv`` into a buffer that is thrown away, since then the kernel
keeps them in large folios, and a program that touches them takes far fewer faults
(docs/decisions/reading-ahead.md).
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from cri.prefetch import ranges
from cri.prefetch.cache import resident
from cri.prefetch.ranges import Range

PIECE = 4 << 20
"""Bytes of one read. A fault of a container waits for one at most."""

_LARGE = 1 << 20  # bytes from which a range is read and not asked for
_ASKED = 128 << 10  # bytes asked for by one call: of more a disk may read no more than this
_AHEAD = 32 << 20  # bytes asked for and not waited for yet
_WAIT = 0.02  # seconds between two looks whether a restore is still under way
_PATIENCE = 10.0  # seconds for which restores may hold up one reader, all together

_LIBC = ctypes.CDLL(None, use_errno=True)
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(platform.machine())
_THREAD = 1  # IOPRIO_WHO_PROCESS with id 0: the calling thread (ioprio_set(2))
_LOWEST = 2 << 13 | 7  # IOPRIO_CLASS_BE, level 7


@dataclass(frozen=True, kw_only=True)
class Step:
    """Ranges of one file."""

    name: str
    """What they are: ``images``, ``hot`` or ``rest``."""
    path: Path
    ranges: Sequence[Range]
    """In the order in which they are read."""
    fine: bool = False
    """Whether single pages shall be cached also of large ranges: large folios hide which pages
    are touched, and may be slow to allocate."""
    waits: bool = False
    """Whether it gives way: to restores that are under way, and to other readers of the disk."""


@dataclass
class Amount:
    """Bytes of one kind of step."""

    read: int = 0
    cached: int = 0
    """Bytes that were in the page cache already."""


@dataclass
class Report:
    """What a reader did."""

    amounts: dict[str, Amount] = field(default_factory=dict)
    """By :attr:`Step.name`."""
    seconds: float = 0.0
    stopped: str = ""
    """Why it did not read all; empty when it did."""

    @property
    def read(self) -> int:
        """Bytes read in all."""
        return sum(one.read for one in self.amounts.values())


class Throttle:
    """Keeps all readers of a node together below a bandwidth. May be used by several threads."""

    def __init__(self, bandwidth: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._bandwidth = bandwidth
        self._clock = clock
        self._free = 0.0
        self._guard = threading.Lock()

    def take(self, size: int) -> float:
        """Seconds to wait before ``size`` bytes may be read. They count from now on."""
        if self._bandwidth is None:
            return 0.0
        with self._guard:
            now = self._clock()
            begin = max(now, self._free)
            self._free = begin + size / self._bandwidth
            return begin - now


class Gate:
    """Closed while restores are under way. May be used by several threads."""

    def __init__(self) -> None:
        self._inside = 0
        self._guard = threading.Lock()

    @property
    def is_closed(self) -> bool:
        """Whether a restore is under way."""
        return self._inside > 0

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep it closed."""
        with self._guard:
            self._inside += 1
        try:
            yield
        finally:
            with self._guard:
                self._inside -= 1


class Reader:
    """One run over some steps; :meth:`cancel` ends it from another thread."""

    def __init__(self, throttle: Throttle, gate: Gate) -> None:
        self._throttle = throttle
        self._gate = gate
        self._patience = _PATIENCE
        self._cancelled = threading.Event()
        self._asked: deque[tuple[int, Range]] = deque()  # oldest first
        self._ahead = 0  # bytes in it
        self.report = Report()

    def cancel(self) -> None:
        """Read no further than the piece in hand."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._cancelled.is_set()

    def look(self, steps: Sequence[Step]) -> list[Step]:
        """The steps without what is in the page cache already. A file that is gone is left out.

        Raises OSError.
        """
        found = []
        for step in steps:
            amount = self.report.amounts.setdefault(step.name, Amount())
            try:
                fd = _open(step.path)
            except FileNotFoundError:
                continue
            missing = []
            try:
                for piece in ranges.pieces(step.ranges, PIECE):
                    if resident(fd, *piece) < piece[1] - piece[0]:
                        missing.append(piece)
                    else:
                        amount.cached += piece[1] - piece[0]
            finally:
                os.close(fd)
            found.append(replace(step, ranges=tuple(missing)))
        return found

    def run(self, steps: Sequence[Step], *, most: int) -> None:
        """Read the steps in order, ``most`` bytes in all, cached or not.

        What is cached must have been left out before anything is read: a large read makes the
        kernel read on, and what it has begun to read counts as cached, though it is neither there
        nor accounted for.

        A file that is gone is left out. Raises OSError when one cannot be read.
        """
        began = time.monotonic()
        buffer = memoryview(bytearray(PIECE))
        try:
            for step in steps:
                amount = self.report.amounts.setdefault(step.name, Amount())
                if step.ranges and not self._one(step, amount, buffer, most - self.report.read):
                    break
        finally:
            self.report.seconds += time.monotonic() - began

    def _one(self, step: Step, amount: Amount, buffer: memoryview, room: int) -> bool:
        """One step; False when nothing more is to be read."""
        try:
            fd = _open(step.path)
        except FileNotFoundError:
            return True
        try:
            with _lowered() if step.waits else nullcontext():
                for piece in ranges.pieces(step.ranges, PIECE):
                    size = piece[1] - piece[0]
                    if size > room:
                        self.report.stopped = "memory"
                        return False
                    if not self._may_read(step, size):
                        self.report.stopped = "cancelled"
                        return False
                    if size >= _LARGE and not step.fine:
                        _read(fd, piece, buffer)
                    else:
                        self._ask(fd, piece)
                    amount.read += size
                    room -= size
                self._settle(0)
        finally:
            self._asked.clear()
            self._ahead = 0
            os.close(fd)
        return True

    def _may_read(self, step: Step, size: int) -> bool:
        """Wait for a restore that is under way and for our turn; False when it was cancelled."""
        while step.waits and self._gate.is_closed and self._patience > 0:
            if self._cancelled.wait(_WAIT):
                return False
            self._patience -= _WAIT
        return not self._cancelled.wait(self._throttle.take(size))

    def _ask(self, fd: int, piece: Range) -> None:
        for start, end in ranges.pieces([piece], _ASKED):
            os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_WILLNEED)
        self._asked.append((fd, piece))
        self._ahead += piece[1] - piece[0]
        self._settle(_AHEAD)

    def _settle(self, most: int) -> None:
        """Wait until at most ``most`` bytes that were asked for are still on their way."""
        while self._ahead > most:
            fd, (start, end) = self._asked.popleft()
            self._ahead -= end - start
            os.pread(fd, 1, end - 1)  # returns when the page is there


def _read(fd: int, piece: Range, buffer: memoryview) -> None:
    start, end = piece
    while start < end and (got := os.preadv(fd, [buffer[: end - start]], start)):
        start += got


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


@contextmanager
def _lowered() -> Iterator[None]:
    """The calling thread's reads go after everybody else's, as far as the disk's scheduler can.

    The lowest level of the ordinary class, and not the idle class: a container that faults on a
    page that is just being read waits for that read, which then must not wait for an idle disk.
    """
    _set_priority(_LOWEST)
    try:
        yield
    finally:
        _set_priority(0)  # none: as the thread's nice value says


def _set_priority(value: int) -> None:
    if _IOPRIO_SET is not None:  # what cannot be set is left; a scheduler may ignore it anyway
        _LIBC.syscall(
            ctypes.c_long(_IOPRIO_SET), ctypes.c_int(_THREAD), ctypes.c_int(0), ctypes.c_int(value)
        )
