"""``pages`` of a snapshot against ``pages.sums``: what is stored, and that there is nothing else.

The digest of ``pages`` in the manifest is that of ``pages.sums``, which lists the digest of each
stored range. So the ranges are verified several at a time, and holes are not read: what lies
outside of every range must be a hole, or zero where the file system keeps no holes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from shim.errors import Broken
from shim.memory import PAGES, SUMS
from shim.memory import sums as listing
from shim.memory.sums import Sum

_READ = 1 << 20  # bytes a call of pread: a thread needs no more memory than that
_MAX_SUMS = 1 << 30  # bytes of pages.sums, the digests of some 40 TiB

Progress = Callable[[int], None]


def read_sums(fd: int) -> bytes:
    """The content of an open ``pages.sums``. Raises OSError; Broken when it is far too large."""
    if os.fstat(fd).st_size > _MAX_SUMS:
        raise Broken(f"the snapshot's {SUMS} is larger than {_MAX_SUMS} bytes")
    found = bytearray()
    while data := os.read(fd, _READ):
        found += data
    return bytes(found)


def chunks_of(sums: bytes, size: int) -> list[Sum]:
    """The stored ranges that ``pages.sums`` lists, of a ``pages`` of ``size`` bytes.

    Broken when it is malformed, or a range lies outside of the file.
    """
    chunks = list(listing.decode(sums))
    if chunks and chunks[-1].offset + chunks[-1].length > size:
        raise Broken(f"the snapshot's {SUMS} lists more than the {size} bytes of {PAGES}")
    return chunks


def check(
    fd: int,
    sums: bytes,
    *,
    holes: int,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> str:
    """What is wrong with an open ``pages``, in one sentence; empty when nothing is.

    ``holes`` is how many bytes must be listed nowhere. ``progress`` is told how many bytes were
    read each time, from several threads. Raises OSError.
    """
    size = os.fstat(fd).st_size
    try:
        chunks = chunks_of(sums, size)
    except Broken as error:
        return str(error)
    found_holes = size - sum(chunk.length for chunk in chunks)
    if found_holes != holes:
        return f"{SUMS} was altered: wanted {holes} bytes of holes, found {found_holes}"
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        found = pool.map(lambda chunk: _differs(fd, chunk, progress), chunks)
        problem = next((one for one in found if one), "")
        if problem:
            pool.shutdown(cancel_futures=True)
    return problem or _outside(fd, chunks, size, progress)


def _differs(fd: int, chunk: Sum, progress: Progress) -> str:
    digest = hashlib.sha256()
    for data in _read(fd, chunk.offset, chunk.offset + chunk.length):
        digest.update(data)
        progress(len(data))
    found = digest.hexdigest()
    if found == chunk.sha256:
        return ""
    return (
        f"{PAGES} was altered between {chunk.offset} and {chunk.offset + chunk.length}: "
        f"wanted sha256:{chunk.sha256}, found sha256:{found}"
    )


def _outside(fd: int, chunks: Sequence[Sum], size: int, progress: Progress) -> str:
    """Whether data lies where no digest is of it."""
    edges = [0, *(edge for one in chunks for edge in (one.offset, one.offset + one.length)), size]
    for start, end in list(pairwise(edges))[::2]:
        for at, stop in _data(fd, start, end):
            for data in _read(fd, at, stop):
                progress(len(data))
                if data.count(0) != len(data):
                    return f"{PAGES} was altered: it has data after {at}, where {SUMS} has none"
                at += len(data)  # noqa: PLW2901 - where the next piece begins
    return ""


def _data(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges between two places of a file that are no holes."""
    while start < end:
        try:
            at = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # none before the end of the file
                raise
            return
        if at >= end:
            return
        start = min(os.lseek(fd, at, os.SEEK_HOLE), end)
        yield at, start


def _read(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (data := os.pread(fd, min(_READ, end - start), start)):
        yield data
        start += len(data)
