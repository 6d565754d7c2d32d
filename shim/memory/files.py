"""The files that hold a dump's pages, read by offset from several threads."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from shim.errors import Broken
from shim.memory.model import PAGE
from shim.memory.pieces import ZERO, Piece, gaps

_MAX_VECTOR = 512
"""Buffers of one preadv; the kernel takes 1024."""

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ETXTBSY}


class SourceFiles:
    """Open page files, each with the number that pieces name it by."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._own: list[bool] = []
        self._numbers: dict[tuple[int, int], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def open(self, path: Path, *, own: bool) -> int:
        """The number of a file; ``own``: its blocks may be given back once they were copied.

        They are not when the file has another name, too. Raises Broken when there is no such file.
        """
        try:
            own = own and not path.is_symlink() and path.stat().st_nlink == 1
            fd = os.open(path, (os.O_RDWR if own else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Broken(f"the memory of the dump is incomplete: there is no {path.name}") from None
        status = os.fstat(fd)
        key = status.st_dev, status.st_ino
        if key in self._numbers:
            os.close(fd)
            return self._numbers[key]
        self._fds.append(fd)
        self._names.append(path.name)
        self._sizes.append(status.st_size)
        self._own.append(own)
        self._numbers[key] = len(self._fds) - 1
        return self._numbers[key]

    def check(self, piece: Piece) -> None:
        """Broken unless the file is long enough."""
        if piece.file != ZERO and piece.offset + piece.length > self._sizes[piece.file]:
            raise Broken(
                f"{self._names[piece.file]} is truncated: wanted at least "
                f"{piece.offset + piece.length} bytes, found {self._sizes[piece.file]} bytes"
            )

    def load(self, pieces: Sequence[Piece], room: memoryview) -> memoryview:
        """The bytes from the first piece's on up to the last one's, in ``room``.

        What no piece covers is zero there. Raises Broken for a file that ends too early.
        """
        origin, end = pieces[0].at, pieces[-1].end
        buffer = room[: end - origin]
        for low, high in gaps(pieces, origin, end):
            buffer[low - origin : high - origin] = bytes(high - low)
        self.read(pieces, buffer, origin)
        return buffer

    def read(self, pieces: Sequence[Piece], buffer: memoryview, origin: int) -> None:
        """Put the pieces' bytes into ``buffer``, whose first byte is that at ``origin``.

        What lies between them is left as it is. Raises Broken for a file that ends too early.
        """
        at = 0
        while at < len(pieces):
            first = pieces[at]
            if first.file == ZERO:
                low = first.at - origin
                buffer[low : low + first.length] = bytes(first.length)
                at += 1
                continue
            vector: list[memoryview] = []
            end = first.offset
            while at < len(pieces) and len(vector) < _MAX_VECTOR:
                piece = pieces[at]
                if piece.file != first.file or piece.offset != end:
                    break
                low = piece.at - origin
                vector.append(buffer[low : low + piece.length])
                end += piece.length
                at += 1
            self._read(first.file, vector, first.offset)

    def _read(self, number: int, vector: list[memoryview], offset: int) -> None:
        while vector:
            count = os.preadv(self._fds[number], vector, offset)
            if count == 0:
                raise Broken(f"{self._names[number]} ended while it was read")
            offset += count
            while vector and count >= len(vector[0]):
                count -= len(vector.pop(0))
            if count:
                vector[0] = vector[0][count:]

    def data(self, number: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges of [start, end) of a file that are no holes, in whole pages."""
        fd, at = self._fds[number], start
        while at < end:
            try:
                low = os.lseek(fd, at, os.SEEK_DATA)
                high = os.lseek(fd, low, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole up to the end of the file
                    return
                raise
            low, high = max(low - low % PAGE, start), min(-(-high // PAGE) * PAGE, end)
            if low >= end:
                return
            yield low, high
            at = high

    def release(self, pieces: Sequence[Piece]) -> None:
        """Give the blocks of copied pieces back, where the file is ours and its system can.

        It halves the disk that a capture needs, and spares writing pages twice that were still
        in memory only.
        """
        merged: dict[int, list[tuple[int, int]]] = {}
        for piece in pieces:
            if piece.file == ZERO or not self._own[piece.file]:
                continue
            ranges = merged.setdefault(piece.file, [])
            if ranges and sum(ranges[-1]) == piece.offset:
                ranges[-1] = ranges[-1][0], ranges[-1][1] + piece.length
            else:
                ranges.append((piece.offset, piece.length))
        for number, ranges in merged.items():
            for offset, size in ranges:
                if not _punch(self._fds[number], offset, size):
                    self._own[number] = False
                    break


def _punch(fd: int, offset: int, size: int) -> bool:
    mode = _KEEP_SIZE | _PUNCH_HOLE
    if _LIBC.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(size)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number))


_LIBC = ctypes.CDLL(None, use_errno=True)
