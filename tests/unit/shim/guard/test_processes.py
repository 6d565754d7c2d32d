"""The agent and processes: children, threads, signals, other tracers, and everyone's end."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shim import guard
from tests.unit.shim.guard.conftest import PAGES, Target, content

Wait = Callable[[Callable[[], object]], None]

DONTNEED, WIPEONFORK = 4, 18


def test_a_forked_child_has_its_own(target: Target) -> None:
    target(
        "r, w = os.pipe()\nif os.fork() == 0:\n"
        "    os.write(w, bytes([madvise(8, 4, 4), *every(6, 8)]))\n    os._exit(0)"
    )
    assert target("list(os.read(r, 100))") == [0, *content(6, 2), *[0] * 4, *content(12, 2)]
    assert target("every(6, 8)") == content(6, 8)
    assert target("lines()") == [f"0-{PAGES} rw-p file"]


def test_another_program_at_the_same_addresses(target: Target) -> None:
    code = (
        "import ctypes, sys; libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_long;"
        "at = ctypes.c_ulong(int(sys.argv[1]));"
        "assert libc.mmap(at, 8192, 3, 0x100022, -1, ctypes.c_long(0)) == at.value;"
        "one = ctypes.c_ubyte.from_address(at.value); one.value = 7;"
        "libc.mremap.restype = ctypes.c_long;"
        "print(libc.madvise(at, 4096, 4), one.value,"
        " libc.mremap(at, ctypes.c_ulong(4096), ctypes.c_ulong(4096), 1) == at.value)"
    )
    target(f"import subprocess; other = {code!r}")
    assert target("subprocess.run([sys.executable, '-c', other, str(base)], "
                  "capture_output=True, text=True).stdout") == "0 0 True\n"  # fmt: skip


VFORK = """
import struct
machine = (b"\\xb8\\x3a\\0\\0\\0\\x0f\\x05" + b"\\x85\\xc0\\x75\\x2c"
    + b"\\xb8\\x1c\\0\\0\\0" + b"\\x48\\xbf" + struct.pack("<Q", base + 9 * PAGE)
    + b"\\x48\\xbe" + struct.pack("<Q", PAGE) + b"\\xba\\x04\\0\\0\\0" + b"\\x0f\\x05"
    + b"\\x89\\xc7\\xb8\\x3c\\0\\0\\0\\x0f\\x05" + b"\\x90" * 3 + b"\\xc3")
at = libc.mmap(0, PAGE, 7, 0x22, -1, 0)
ctypes.memmove(at, machine, len(machine))
child = ctypes.CFUNCTYPE(ctypes.c_int)(at)()
ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def test_a_child_of_vfork_discards_its_parents_memory(target: Target) -> None:
    target(VFORK)
    assert target("ended") == 0
    assert target("every(8, 3)") == [*content(8, 1), 0, *content(10, 1)]
    assert target("threading.active_count()") == 1


THREADS = """
import random, threading
wrong = []
def work(number):
    rng, first = random.Random(number), number * 64
    model = [1 + page % 250 for page in range(first, first + 64)]
    for _ in range(60):
        at = rng.randrange(64); count = rng.randint(1, 64 - at)
        if rng.random() < 0.5:
            if madvise(first + at, count, 4) != 0: wrong.append("error")
            model[at:at + count] = [0] * count
        else:
            value = rng.randrange(256)
            write(first + at, value); model[at] = value
        if every(first, 64) != model: wrong.append((number, at, count))
threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
for t in threads: t.start()
for t in threads: t.join()
"""


def test_threads_at_once(target: Target) -> None:
    target(THREADS)
    assert target("wrong") == []


ALARMS = """
import signal
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.siginterrupt(signal.SIGALRM, {interrupt})
signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
answers = [madvise(page % 1000, 3, 4) for page in range(0, 6000, 7)]
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize("interrupt", [False, True])
def test_signals_meanwhile(target: Target, interrupt: bool) -> None:  # noqa: FBT001
    """A handler without SA_RESTART may show as EINTR, and nothing else ever does."""
    target(ALARMS.format(interrupt=interrupt))
    assert target("len(hits)") > 10
    assert set(target("answers")) <= ({0, -errno.EINTR} if interrupt else {0})
    if not interrupt:
        assert target("max(every(0, 1000))") == 0


def test_a_process_killed_in_the_middle(target: Target) -> None:
    target(
        "import signal, time\nfor n in range(40):\n    child = os.fork()\n    if child == 0:\n"
        "        while True:\n            for page in range(0, 900, 3): madvise(page, 2, 4)\n"
        "    time.sleep(n / 4000)\n    os.kill(child, signal.SIGKILL)\n    os.waitpid(child, 0)"
    )
    assert target("madvise(0, 1, 4), every(0, 3)") == [0, [0, *content(1, 2)]]


def test_a_traced_process_gets_zeros_instead(target: Target) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(0x4206, target.process.pid, None, None) == 0
    try:
        assert target(f"madvise(8, 4, {DONTNEED})") == 0
        assert target("every(6, 8)") == [*content(6, 2), *[0] * 4, *content(12, 2)]
        assert target("call(25, base, PAGE, 2 * PAGE, 1)") == -errno.ENOMEM
        assert target(f"madvise(8, 4, {WIPEONFORK})") == -errno.EAGAIN
    finally:
        libc.ptrace(0x4207, target.process.pid, None, None)
        os.waitpid(target.process.pid, 0)
        libc.ptrace(17, target.process.pid, None, None)


def test_memory_that_is_sealed_gets_zeros_instead(target: Target) -> None:
    if target("call(462, base, 64 * PAGE, 0)") != 0:
        pytest.skip("this kernel seals nothing")
    assert target(f"madvise(8, 4, {DONTNEED})") == 0
    assert target("every(6, 8)") == [*content(6, 2), *[0] * 4, *content(12, 2)]
    assert target("lines()")[0] == "0-64 rw-p file"


def test_without_room_for_another_mapping_it_gets_zeros(target: Target) -> None:
    target(
        "many = libc.mmap(0, 140000 * PAGE, 0, 0x4022, -1, 0)\n"
        "n = 0\nwhile call(10, many + n * PAGE, PAGE, 1) == 0: n += 2"
    )
    assert target(f"madvise(8, 1, {DONTNEED}), every(6, 4)") == [
        0,
        [*content(6, 2), 0, *content(9, 1)],
    ]
    target("call(11, many, 140000 * PAGE)")


def test_a_pause_holds_calls_back_until_it_ends(target: Target) -> None:
    with guard.paused(str(target.folder / "run"), "c"):
        target.send("madvise(8, 4, 4)")
        time.sleep(0.1)
        status = Path(f"/proc/{target.process.pid}/status").read_text()
        assert "TracerPid:\t0" in status
        lines = Path(f"/proc/{target.process.pid}/maps").read_text().splitlines()
        assert len([line for line in lines if line.endswith(str(target.file))]) == 1
    assert target.answer() == 0
    assert target("read(8)") == 0


def test_without_its_agent_a_call_fails_and_memory_is_right(target: Target) -> None:
    assert target.agent is not None
    guard.stop(target.agent.pid, target.agent.started)
    assert target(f"madvise(8, 4, {DONTNEED})") == -errno.ENOSYS
    assert target("every(6, 8)") == content(6, 8)
    assert target("madvise(8, 4, 3)") == 0  # WILLNEED


def test_the_agent_ends_with_the_last_process(target: Target, eventually: Wait) -> None:
    assert target.agent is not None
    target(
        "import time\nchild = os.fork()\n"
        "if child == 0:\n    os.closerange(0, 3)\n    time.sleep(60)"
    )
    child = target("child")
    target.process.kill()
    target.process.communicate()
    assert os.waitpid(target.agent.pid, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    eventually(lambda: os.waitpid(target.agent.pid, os.WNOHANG)[0])  # type: ignore[union-attr]
    assert list((target.folder / "run/guards").iterdir()) == []
