"""A process with a file mapped privately, which does what it is told: a line of Python, an answer.

    python target.py FILE PAGES

It installs the filter for that mapping itself, as CRIU does for a restored process.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os  # noqa: F401 - for what it is told
import sys
import threading  # noqa: F401 - likewise
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4]))

from shim.guard import filter as bpf

PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_long
libc.mmap.argtypes = (ctypes.c_ulong, ctypes.c_ulong, *[ctypes.c_int] * 3, ctypes.c_long)
libc.syscall.restype = ctypes.c_long


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def call(number: int, *arguments: int) -> int:
    """A system call; minus the error number when it fails."""
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(one) for one in arguments))
    return -ctypes.get_errno() if result == -1 else int(result)


def madvise(page: int, pages: int, advice: int) -> int:
    """Give advice on pages of the mapping."""
    return call(28, base + page * PAGE, pages * PAGE, advice)


def read(page: int, at: int = 0) -> int:
    """One byte of a page."""
    return ctypes.c_ubyte.from_address(base + page * PAGE + at).value


def write(page: int, value: int, at: int = 0) -> None:
    """Write one byte of a page."""
    ctypes.c_ubyte.from_address(base + page * PAGE + at).value = value


def every(first: int, count: int) -> list[int]:
    """The first byte of each page."""
    return [read(page) for page in range(first, first + count)]


def lines() -> list[str]:
    """The mappings of what was mapped at first, as /proc/self/maps has them."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if start < base + size and base < end:
            name = "file" if line.endswith(sys.argv[1]) else "anonymous"
            found.append(
                f"{(start - base) // PAGE}-{(end - base) // PAGE} {line.split()[1]} {name}"
            )
    return found


def guard() -> int:
    """Install the filter for the mapping, with a listener. Returns the descriptor."""
    program = bpf.build([(base, base + size)])
    buffer = ctypes.create_string_buffer(program, len(program))
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    what = Program(len(program) // 8, ctypes.addressof(buffer))
    return call(317, 1, 1 | 1 << 3 | 1 << 4 | 1 << 2, ctypes.addressof(what))


size = int(sys.argv[2]) * PAGE
with Path(sys.argv[1]).open("rb") as file:
    # Away from other mappings, so that nothing merges with it.
    hole = libc.mmap(0, size + (64 << 20), 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    base = -(-hole // (2 << 20)) * (2 << 20) + (16 << 20)
    libc.munmap(ctypes.c_ulong(hole), ctypes.c_ulong(size + (64 << 20)))
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    assert libc.mmap(base, size, prot, mmap.MAP_PRIVATE | 0x100000, file.fileno(), 0) == base

for line in sys.stdin:
    try:
        code = json.loads(line)
        try:
            what = compile(code, "told", "eval")
        except SyntaxError:
            what = compile(code, "told", "exec")
        answer = eval(what)  # noqa: S307 - that is what it is for
    except Exception:  # noqa: BLE001 - the test reads it
        answer = traceback.format_exc()
    print(json.dumps(answer), flush=True)
