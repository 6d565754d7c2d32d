from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim import guard
from shim.guard import listeners, ptrace

root_only = pytest.mark.skipif(
    bool(guard.supported()) or os.geteuid() != 0, reason="only root may trace so"
)


def group(folder: Path, *pids: int) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return str(folder)


def test_members_are_those_of_the_first_hierarchy_that_is_there(tmp_path: Path) -> None:
    one, two = group(tmp_path / "one", 7, 3, 0), group(tmp_path / "two", 9)
    group(tmp_path / "one/below", 5)
    group(tmp_path / "one/below/further", 4, 3)
    assert listeners.members([str(tmp_path / "none"), one, two]) == [3, 4, 5, 7]
    assert listeners.members([group(tmp_path / "empty"), two]) == [9]
    assert listeners.members([]) == []


def test_status() -> None:
    status = b"Name:\tx\nTracerPid:\t0\nSeccomp:\t2\n"
    assert listeners.is_filtered(status)
    assert not listeners.is_traced(status)
    other = status.replace(b":\t0", b":\t7").replace(b":\t2", b":\t0")
    assert not listeners.is_filtered(other)
    assert listeners.is_traced(other)


def test_other_descriptors_are_no_listeners() -> None:
    descriptors = [os.pidfd_open(os.getpid()), os.eventfd(0)]
    try:
        assert listeners.find(os.getpid()) == []
    finally:
        for fd in descriptors:
            os.close(fd)


def test_each_open_file_is_held_once() -> None:
    held = listeners.Listeners()
    files = [os.eventfd(0) for _ in range(40)]
    with subprocess.Popen(["sleep", "60"], pass_fds=files) as process:
        try:
            for fd in (*files, *reversed(files), files[7]):
                held.take(process.pid, fd)
            assert len(held.held) == len(set(held.held)) == 40
            for fd in held.held[:]:
                held.drop(fd)
            assert held.held == []
            with pytest.raises(OSError, match="pidfd_getfd"):
                held.take(process.pid, 900)
        finally:
            process.kill()
            for fd in files:
                os.close(fd)


def test_a_process_that_has_ended() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    assert listeners.find(child) == []
    assert listeners.read(f"/proc/{child}/status") == b""
    assert not listeners.collect(child, listeners.Listeners())
    with pytest.raises(ptrace.GoneError):
        listeners.close_in(child)


THREADS = """
import threading, time
def make():
    one = threading.Thread(target=lambda: time.sleep(0.01))
    one.start()
    one.join()
for _ in range(8):
    threading.Thread(target=lambda: [make() for _ in iter(int, 1)], daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""


@root_only
def test_every_thread_is_held_while_threads_come_and_go() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", THREADS], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(10):
            held: list[ptrace.Thread] = []
            listeners.hold_all(process.pid, held, time.monotonic() + 10)
            tasks = Path(f"/proc/{process.pid}/task")
            for task in tasks.iterdir():
                state = (task / "stat").read_text().rpartition(")")[2].split()[0]
                assert state in "tZX"
            assert len(held) >= 9
            for thread in held:
                thread.release()
            time.sleep(0.02)
        while ptrace.release_late():
            time.sleep(0.001)
        process.kill()
