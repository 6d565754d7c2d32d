"""Holding threads of other processes, and calls in their name."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shim import guard
from shim.guard import ptrace
from shim.guard.ptrace import BusyError, GoneError, Thread

GETPID, CLOSE, MMAP, GETTID = 39, 3, 9, 186

pytestmark = pytest.mark.skipif(
    bool(guard.supported()) or os.geteuid() != 0, reason="only root may trace so"
)

# Each waits in another call, in another way, and tells how long it did and what came of it.
WAITS = {
    "nanosleep": "time.sleep(0.6)",
    "pipe": "os.read(r, 1)",
    "poll": "select.select([r], [], [], 0.6)",
    "lock": "lock.acquire(timeout=0.6)",
    "sigwait": "signal.sigtimedwait([signal.SIGUSR1], 0.6)",
    "futex": "libc.syscall(202, ctypes.byref(word), 128, 0, None, None, 0)",
    "pause": "signal.pause()",
    "loop": "[0 for end in [time.monotonic() + 0.6] while time.monotonic() < end]",
    "child": "os.waitpid(child, 0)",
}
CODE = """
import ctypes, os, select, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
word, lock = ctypes.c_int(0), threading.Lock()
lock.acquire()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
signal.signal(signal.SIGALRM, lambda *_: None)
r, w = os.pipe()
threading.Timer(0.6, lambda: os.write(w, b"x")).start() if sys.argv[1] == "pipe" else None
if sys.argv[1] in ("pause", "futex"):
    signal.setitimer(signal.ITIMER_REAL, 0.6)
child = os.fork() if sys.argv[1] == "child" else 0
if sys.argv[1] == "child" and child == 0:
    time.sleep(0.6)
    os._exit(0)
print("ready", flush=True)
begin = time.monotonic()
result = eval(sys.argv[2]) if sys.argv[1] != "loop" else None
while time.monotonic() < begin + 0.6 and sys.argv[1] == "loop": pass
wrong = result == -1 and ctypes.get_errno() != 4
print(round(time.monotonic() - begin, 1), "error" if wrong else "")
"""


def held(pid: int) -> Thread:
    thread = Thread(pid)
    assert thread.stop(time.monotonic() + 5)
    return thread


def waits_in(pid: int, number: int) -> None:
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}/syscall").read_text().split()[0] != str(number):
        assert time.monotonic() < end


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program, ended with the block: one that is still held would be waited for."""
    with subprocess.Popen(
        [sys.executable, "-c", *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@pytest.mark.parametrize("kind", WAITS)
def test_a_call_goes_on_as_if_nothing_had_been(kind: str) -> None:
    with program(CODE, kind, WAITS[kind]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            thread = held(process.pid)
            assert thread.call(GETPID) == process.pid
            assert thread.call(CLOSE, 1000) == -errno.EBADF
            thread.release()
            time.sleep(0.02)
        seconds, *problem = process.stdout.readline().split()
    assert process.returncode == 0
    assert 0.6 <= float(seconds) < 1.2
    assert problem == []


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    """A process that sleeps between two lines."""
    code = "import time\nwhile True: print('x', flush=True); time.sleep(0.05)"
    with program(code) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_a_signal_has_stopped_stays_stopped(sleeper: subprocess.Popen[str]) -> None:
    sleeper.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 5
    while state(sleeper.pid) != "T":
        assert time.monotonic() < end
    thread = held(sleeper.pid)
    assert thread.call(GETPID) == sleeper.pid
    thread.release()
    end = time.monotonic() + 5
    while state(sleeper.pid) != "T":
        assert time.monotonic() < end
    time.sleep(0.1)
    assert state(sleeper.pid) == "T"
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline() == "x\n"


def test_a_stop_signal_meanwhile_comes_afterwards(sleeper: subprocess.Popen[str]) -> None:
    thread = held(sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    assert [thread.call(GETTID) for _ in range(3)] == [sleeper.pid] * 3
    thread.release()
    end = time.monotonic() + 5
    while state(sleeper.pid) != "T":
        assert time.monotonic() < end


def test_registers_and_signal_mask_stay(sleeper: subprocess.Popen[str]) -> None:
    before = [
        line
        for line in Path(f"/proc/{sleeper.pid}/status").read_text().splitlines()
        if line.startswith(("SigBlk", "SigIgn", "SigCgt"))
    ]
    thread = held(sleeper.pid)
    address = thread.call(MMAP, 0, 4096, 3, 0x22, (1 << 64) - 1, 0)
    assert address > 0
    assert f"{address:x}-" in Path(f"/proc/{sleeper.pid}/maps").read_text()
    thread.release()
    after = Path(f"/proc/{sleeper.pid}/status").read_text()
    assert all(line in after.splitlines() for line in before)
    assert sleeper.poll() is None


def test_a_call_that_was_interrupted_can_be_answered() -> None:
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint('ready', flush=True)\n"
        "print(libc.syscall(34), ctypes.get_errno())"  # pause
    )
    with program(code) as process:
        assert process.stdout is not None
        process.stdout.readline()
        waits_in(process.pid, 34)
        held(process.pid).release(again=True)
        waits_in(process.pid, 34)
        thread = held(process.pid)
        assert thread.registers.orig_rax == 34
        thread.release(answer=-errno.EAGAIN)
        assert process.stdout.read() == f"-1 {errno.EAGAIN}\n"


def test_a_thread_that_has_ended(sleeper: subprocess.Popen[str]) -> None:
    thread = held(sleeper.pid)
    sleeper.kill()
    while state(sleeper.pid) == "t":
        time.sleep(0.001)
    with pytest.raises(GoneError):
        thread.call(GETPID)
    thread.release()
    end = time.monotonic() + 5
    while ptrace.release_late():
        assert time.monotonic() < end
    assert not Path(f"/proc/{sleeper.pid}").exists()  # its parent is who has held it
    with pytest.raises(GoneError):
        Thread(sleeper.pid)


def test_a_thread_that_another_one_holds(sleeper: subprocess.Popen[str]) -> None:
    other = os.fork()
    if other == 0:
        Thread(sleeper.pid).stop()
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(other, os.WUNTRACED)
    try:
        with pytest.raises(BusyError):
            Thread(sleeper.pid)
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)


@pytest.mark.parametrize("wanted", [True, False])
def test_it_dies_with_us_when_that_is_wanted(sleeper: subprocess.Popen[str], wanted: bool) -> None:  # noqa: FBT001
    tracer = os.fork()
    if tracer == 0:
        thread = held(sleeper.pid)
        thread.die_with_us(wanted=True)
        if not wanted:
            thread.die_with_us(wanted=False)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(tracer, 0)
    if wanted:
        assert sleeper.wait(5) == -signal.SIGKILL
    else:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "x\n"
