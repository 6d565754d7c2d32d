from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim.container import start_time
from shim.guardian import Guardian
from shim.leftovers import Criu, Record

ROOT = str(Path(__file__).parents[3])

# A capture that starts a guardian and a "CRIU", and is killed.
CAPTURE = """
import subprocess, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from shim.capture import _lock_file
from shim.container import start_time
from shim.guardian import Guardian
from shim.leftovers import Criu
path = Path(sys.argv[3])
guardian = Guardian(Path(sys.argv[2]), lock=(path, _lock_file(path)))
guardian.wait_ready()
criu = subprocess.Popen(["sleep", "60"], start_new_session=True)
guardian.watch(Criu(pid=criu.pid, started=start_time(criu.pid)))
print(criu.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup/freezer.state").write_text("FROZEN")
    (tmp_path / "stage").mkdir()
    path = tmp_path / "record.json"
    Record(
        container="c",
        pid=1,
        started=1,
        freezer=str(tmp_path / "cgroup"),
        cgroup_version=1,
        since=time.time(),
        scratch=[str(tmp_path / "stage")],
    ).write(path)
    return path


def test_a_released_guardian_does_nothing(record: Path, tmp_path: Path) -> None:
    with Guardian(record) as guardian:
        guardian.wait_ready()
        guardian.watch(Criu(pid=1, started=1))
    assert record.exists()
    assert (tmp_path / "cgroup/freezer.state").read_text() == "FROZEN"


def test_a_killed_capture_is_undone(record: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    capture = subprocess.Popen(
        [sys.executable, "-c", CAPTURE, ROOT, str(record), str(lock)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert capture.stdout is not None
    criu = int(capture.stdout.readline())
    held = os.open(lock, os.O_RDWR)
    capture.send_signal(signal.SIGKILL)
    capture.wait()
    capture.stdout.close()
    with pytest.raises(BlockingIOError):  # the guardian has the lock while it works
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    end = time.monotonic() + 30
    while lock.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not lock.exists()
    assert start_time(criu) is None
    assert (tmp_path / "cgroup/freezer.state").read_text() == "THAWED"
    assert not (tmp_path / "stage").exists()
    assert not record.exists()
    os.close(held)


def test_what_was_interrupted_is_finished(record: Path, tmp_path: Path) -> None:
    guardian = Guardian(record)
    guardian.wait_ready()
    guardian.release(well=False)
    assert (tmp_path / "cgroup/freezer.state").read_text() == "THAWED"
    assert not record.exists()


def test_a_guardian_that_died_is_no_trouble(record: Path) -> None:
    guardian = Guardian(record)
    guardian.wait_ready()
    guardian._process.kill()
    guardian._process.wait()
    guardian.watch(Criu(pid=1, started=1))
    guardian.release()


def test_signals_to_the_capture_s_group_do_not_reach_it(record: Path) -> None:
    with Guardian(record) as guardian:
        guardian.wait_ready()
        assert os.getsid(guardian._process.pid) != os.getsid(0)
        guardian._process.terminate()
        time.sleep(0.2)
        assert guardian._process.poll() is None
