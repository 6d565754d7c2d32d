"""Write ``pages``: one pass over the data, in several threads.

Each thread takes a window of the file, reads what belongs there, finds what is zero, hashes the
rest and writes it. Reading, hashing and writing leave Python's lock, so threads scale.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from shim.memory.files import SourceFiles
from shim.memory.model import PAGE
from shim.memory.parallel import each
from shim.memory.pieces import Piece, length, windows
from shim.memory.sums import CHUNK, Sum

HOLE = 64 << 10
"""Bytes. Zeros of a shorter range between data are stored: a hole costs a line of digests and an
extent of the file system."""

_ZERO = bytes(PAGE)
_MAX_GROUPS = 256

Group = Sequence[Piece]
"""Pieces of one window between which there is no hole."""


def capacity(folder: Path, wanted: int) -> int:
    """How large a file may be there, in bytes, holes included: ``wanted`` or a part of it."""
    path = folder / ".capacity"
    with _new(path) as fd:
        path.unlink()
        while wanted:
            try:
                os.ftruncate(fd, wanted)
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
                wanted //= 2
            else:
                break
    return wanted


def write(path: Path, pieces: Sequence[Piece], size: int, files: SourceFiles) -> list[Sum]:
    """Make the file ``path`` of ``size`` bytes from ``pieces`` (``at`` is the offset in it).

    What was copied is given back in source files that are our own. Returns the digests, by
    offset. Raises OSError when writing fails (ENOSPC …).
    """
    with _new(path) as fd:
        os.ftruncate(fd, size)

        def one(batch: list[Group]) -> list[Sum]:
            found = [digest for group in batch for digest in _group(fd, group, files)]
            files.release([piece for group in batch for piece in group])
            return found

        return [found for part in each(one, _batches(pieces)) for found in part]


def write_plain(path: Path, pieces: Sequence[Piece], files: SourceFiles) -> None:
    """Make a file of the same bytes that hides no zeros: the pieces one after the other.

    Raises OSError when writing fails.
    """
    with _new(path) as fd:

        def one(window: tuple[int, list[Piece]]) -> None:
            write_all(fd, files.load(window[1], _buffer.view), window[0])
            files.release(window[1])

        each(one, windows(pieces, CHUNK))


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write at ``offset`` until everything is written."""
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count


def _group(fd: int, group: Group, files: SourceFiles) -> Iterator[Sum]:
    origin = group[0].at
    buffer = files.load(group, _buffer.view)
    for start, end in data_ranges(buffer):
        part = buffer[start:end]
        write_all(fd, part, origin + start)
        yield Sum(origin + start, end - start, hashlib.sha256(part).hexdigest())


def _batches(pieces: Sequence[Piece]) -> Iterator[list[Group]]:
    """What a thread takes at once: a window's worth of data, from many windows if it is sparse."""
    batch: list[Group] = []
    size = 0
    for _, inside in windows(pieces, CHUNK):
        for group in _groups(inside):
            batch.append(group)
            size += length(group)
        if size >= CHUNK or len(batch) >= _MAX_GROUPS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _groups(pieces: Sequence[Piece]) -> Iterator[Group]:
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
