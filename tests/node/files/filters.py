# ruff: noqa: INP001 - a program for the node, no package
"""A program with seccomp filters of its own, and a child with one more in one of its threads.

Told by SIGUSR1, each thread tries the calls that they forbid, and madvise.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
import threading
from pathlib import Path

folder = Path(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
GETPGRP, GETSID, MADVISE, SECCOMP = 111, 124, 28, 317
EACCES, ADVICE, ADDRESS = 0x0005000D, 77, 0x10000000000


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def forbid(number: int, flags: int) -> None:
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, EACCES), (6, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("=HBBI", *one) for one in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    what = Program(len(code), ctypes.addressof(buffer))
    assert libc.syscall(SECCOMP, 1, flags, ctypes.byref(what)) == 0


def attempt(number: int, *arguments: int) -> int:
    result = libc.syscall(number, *(ctypes.c_ulong(one) for one in arguments))
    return ctypes.get_errno() if result == -1 else 0


def look() -> dict[str, int]:
    return {
        "getpgrp": attempt(GETPGRP),
        "getsid": attempt(GETSID, 0),
        "madvise": attempt(MADVISE, ADDRESS, 4096, ADVICE),
    }


class Looker(threading.Thread):
    """Looks each time it is asked to."""

    def __init__(self, *, filtered: bool) -> None:
        super().__init__(daemon=True)
        self.filtered = filtered
        self.asked, self.answered, self.up = (threading.Semaphore(0) for _ in range(3))
        self.start()
        self.up.acquire()

    def run(self) -> None:
        if self.filtered:
            forbid(GETSID, 0)
        self.up.release()
        while True:
            self.asked.acquire()
            self.seen = look()
            self.answered.release()


def serve(name: str, lookers: list[Looker]) -> None:
    def answer(*_: object) -> None:
        seen = [look()]
        for one in lookers:
            one.asked.release()
            one.answered.acquire()
            seen.append(one.seen)
        (folder / f".{name}").write_text(json.dumps(seen))
        (folder / f".{name}").rename(folder / f"answer-{name}")

    signal.signal(signal.SIGUSR1, answer)
    (folder / f"up-{name}").touch()
    while True:
        signal.pause()


forbid(GETPGRP, 0)
child = os.fork()
if child == 0:
    serve("child", [Looker(filtered=True)])
(folder / "child").write_text(str(child))
lookers = [Looker(filtered=False) for _ in range(2)]
while not (folder / "up-child").exists():
    pass
(folder / "ready").touch()
serve("parent", lookers)
