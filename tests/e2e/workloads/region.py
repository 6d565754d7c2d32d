"""A large private anonymous mapping with known content, by the system calls themselves."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Callable
from itertools import groupby

from .behaviour import call, libc

PAGE = mmap.PAGESIZE
READ, WRITE, EXEC = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
ANONYMOUS, PRIVATE = mmap.MAP_ANONYMOUS, mmap.MAP_PRIVATE
FIXED = 0x10
MAYMOVE, REMAP_FIXED, DONTUNMAP = 1, 2, 4

libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
]  # fmt: skip
_FAILED = ctypes.c_void_p(-1).value


class Region:
    """Pages that each begin with their number and a mark, and are zero after it."""

    def __init__(self, pages: int = 128, *, address: int = 0, fill: bool = True) -> None:
        flags = PRIVATE | ANONYMOUS | (FIXED if address else 0)
        self.pages = pages
        self.address = _pointer(
            libc.mmap(address, pages * PAGE, READ | WRITE, flags, -1, 0), "mmap"
        )
        for page in range(pages if fill else 0):
            self.write(page, self.mark(page))

    @property
    def size(self) -> int:
        return self.pages * PAGE

    @staticmethod
    def mark(page: int) -> bytes:
        """What a page begins with."""
        return b"page %6d of a region\n" % page

    def at(self, page: int) -> int:
        """The address of a page."""
        return self.address + page * PAGE

    def read(self, page: int, length: int = PAGE) -> bytes:
        return ctypes.string_at(self.at(page), length)

    def write(self, page: int, data: bytes) -> None:
        ctypes.memmove(self.at(page), data, len(data))

    def look(self, start: int = 0, end: int | None = None) -> list[str]:
        """What the pages hold, e.g. ``["8 own", "4 zero", "1 other"]``."""
        kinds = [self._kind(page) for page in range(start, self.pages if end is None else end)]
        return [f"{len(list(group))} {kind}" for kind, group in groupby(kinds)]

    def _kind(self, page: int) -> str:
        data = self.read(page)
        if data == bytes(PAGE):
            return "zero"
        mark = self.mark(page)
        return "own" if data == mark + bytes(PAGE - len(mark)) else "other"

    def advise(self, advice: int, start: int, end: int) -> int:
        """madvise(2) on pages [start, end); OSError."""
        return call("madvise", ctypes.c_void_p(self.at(start)), (end - start) * PAGE, advice)

    def protect(self, protection: int, start: int, end: int) -> int:
        """mprotect(2)."""
        return call("mprotect", ctypes.c_void_p(self.at(start)), (end - start) * PAGE, protection)

    def unmap(self, start: int, end: int) -> int:
        """munmap(2)."""
        return call("munmap", ctypes.c_void_p(self.at(start)), (end - start) * PAGE)

    def remap(self, pages: int, flags: int = MAYMOVE, to: int = 0) -> int:
        """mremap(2) of the whole; it is there afterwards. Its old address."""
        old = self.address
        self.address = _pointer(libc.mremap(old, self.size, pages * PAGE, flags, to), "mremap")
        self.pages = pages
        return old

    def seen_as(self, address: int) -> Region:
        """The same pages' marks at another address, which is mapped."""
        other = object.__new__(Region)
        other.address, other.pages = address, self.pages
        return other


def in_child(look: Callable[[], object]) -> object:
    """What a forked child sees, or by which signal it died."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        try:
            os.write(writer, repr(look()).encode())
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent shall see it
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        seen = stream.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return seen if status == 0 else f"signal {-status}"


def _pointer(value: int | None, name: str) -> int:
    if value is None or value == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return value
