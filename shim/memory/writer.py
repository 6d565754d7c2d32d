"""Write ``pages``: one pass over the data, in several threads.

Each thread takes a window of the file, reads what belongs there, finds what is zero, hashes the
rest and writes it. Reading, hashing and writing leave Python's lock, so threads scale.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from shim.memory.files import SourceFiles
from shim.memory.model import PAGE
from shim.memory.pieces import Piece, windows
from shim.memory.sums import CHUNK, Sum

HOLE = 64 << 10
"""Bytes. Zeros of a shorter range between data are stored: a hole costs a line of digests and an
extent of the file system."""

_ZERO = bytes(PAGE)
_MAX_THREADS = 8
_T = TypeVar("_T")


def threads() -> int:
    """How many threads serve: as many as there are processors for us, up to 8."""
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


def write(path: Path, pieces: Sequence[Piece], size: int, files: SourceFiles) -> list[Sum]:
    """Make the file ``path`` of ``size`` bytes from ``pieces`` (``at`` is the offset in it).

    What was copied is given back in source files that are our own. Returns the digests, by
    offset. Raises OSError when writing fails (ENOSPC …).
    """
    with _new(path) as fd:
        os.ftruncate(fd, size)

        def one(window: Sequence[Piece]) -> list[Sum]:
            return _window(fd, window, files)

        return [found for part in _in_threads(one, pieces) for found in part]


def write_plain(path: Path, pieces: Sequence[Piece], files: SourceFiles) -> None:
    """Make a file of the same bytes that hides no zeros: the pieces one after the other.

    Raises OSError when writing fails.
    """
    with _new(path) as fd:

        def one(window: Sequence[Piece]) -> None:
            write_all(fd, files.load(window, _buffer.view), window[0].at)
            files.release(window)

        for _ in _in_threads(one, pieces):
            pass


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write at ``offset`` until everything is written."""
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count


def _window(fd: int, pieces: Sequence[Piece], files: SourceFiles) -> list[Sum]:
    found = []
    for group in _groups(pieces):
        origin = group[0].at
        buffer = files.load(group, _buffer.view)
        for start, end in data_ranges(buffer):
            part = buffer[start:end]
            write_all(fd, part, origin + start)
            found.append(Sum(origin + start, end - start, hashlib.sha256(part).hexdigest()))
    files.release(pieces)
    return found


def _groups(pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """The pieces between which there is no hole."""
    start = 0
    for number, (one, other) in enumerate(pairwise(pieces), 1):
        if other.at - one.end >= HOLE:
            yield pieces[start:number]
            start = number
    yield pieces[start:]


class _Buffer(threading.local):
    """Room for a window: each thread's own, since to get new memory is as dear as to hash it."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(CHUNK))


_buffer = _Buffer()


def _in_threads(work: Callable[[Sequence[Piece]], _T], pieces: Sequence[Piece]) -> Iterator[_T]:
    """Do the work of every window; what fails first is raised and stops the rest."""
    with ThreadPoolExecutor(threads(), thread_name_prefix="pages") as pool:
        yield from pool.map(work, (inside for _, inside in windows(pieces, CHUNK)))


@contextmanager
def _new(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def data_ranges(buffer: memoryview) -> Iterator[tuple[int, int]]:
    """The ranges of whole pages that are not zero; those less than HOLE apart as one."""
    start = end = -1
    for page in _nonzero(buffer):
        at = page * PAGE
        if start < 0:
            start = at
        elif at - end >= HOLE:
            yield start, end
            start = at
        end = at + PAGE
    if start >= 0:
        yield start, end


def _nonzero(buffer: memoryview) -> Iterator[int]:
    """The numbers of the pages that are not zero."""
    # The first word tells it for most pages.
    for page, word in enumerate(buffer.cast("Q")[:: PAGE // 8].tolist()):
        if word or bytes(buffer[page * PAGE : (page + 1) * PAGE]) != _ZERO:
            yield page
