from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim import dumprun, rootfs
from shim.container import start_time
from shim.dumprun import CaptureFailed, Files
from shim.handshake import Handshake
from shim.leftovers import Criu

# A program that behaves as CRIU does: it runs the script at the end and heeds its answer.
CRIU = """
import os, subprocess, sys
environment = dict(os.environ, CRTOOLS_SCRIPT_ACTION="post-dump")
sys.exit(subprocess.run([sys.argv[1]], env=environment, stderr=subprocess.DEVNULL).returncode * 5)
"""


@pytest.fixture
def handshake(tmp_path: Path) -> Handshake:
    return Handshake(tmp_path / "action.sh", tmp_path / "s")


def test_a_dump_is_followed_to_its_end(tmp_path: Path, handshake: Handshake) -> None:
    seen = []
    command = [sys.executable, "-c", CRIU, str(handshake.script)]
    with handshake, dumprun.started(command, tmp_path) as run:
        run.follow(handshake, lambda: seen.append("frozen"), time.monotonic() + 20)
    assert seen == ["frozen"]
    assert run.status == 0


def test_what_fails_while_frozen_makes_the_dump_fail(tmp_path: Path, handshake: Handshake) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    command = [sys.executable, "-c", CRIU, str(handshake.script)]
    with (
        handshake,
        pytest.raises(OSError, match="No space"),
        dumprun.started(command, tmp_path) as run,
    ):
        run.follow(handshake, fail, time.monotonic() + 20)
    assert run.status == 5


def test_a_dump_that_fails_is_seen(tmp_path: Path, handshake: Handshake) -> None:
    command = [sys.executable, "-c", "import sys; print('why'); sys.exit(3)"]
    with handshake, dumprun.started(command, tmp_path) as run:
        run.follow(handshake, lambda: None, time.monotonic() + 20)
    assert run.status == 3
    assert (tmp_path / dumprun.OUTPUT).read_text() == "why\n"


def test_the_deadline(tmp_path: Path, handshake: Handshake) -> None:
    # Like CRIU it writes on, so that its next write fails when it is told to stop.
    code = (
        "import time\nfile = open('/proc/self/comm', 'w')\n"
        f"file = open({str(tmp_path / 'image')!r}, 'wb', buffering=0)\n"
        "while True:\n    file.write(b'x'); time.sleep(0.01)\n"
    )
    with (
        handshake,
        pytest.raises(CaptureFailed, match="took longer than it may"),
        dumprun.started([sys.executable, "-c", code], tmp_path) as run,
    ):
        run.follow(handshake, lambda: None, time.monotonic() + 0.5)
    assert run.status == 1


def test_nothing_begins_before_the_guardian_knows(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    told = []

    def announce(criu: Criu) -> None:
        told.append((criu, start_time(criu.pid)))
        time.sleep(0.2)
        assert not begun.exists()

    with dumprun.started(["touch", str(begun)], tmp_path, announce) as run:
        assert run.status == 0
    assert begun.exists()
    assert told == [(run.criu, run.criu.started)]


def test_nothing_begins_when_the_capture_dies_first(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    code = (
        "import os, sys; from pathlib import Path; from shim import dumprun\n"
        "announce = lambda criu: (print(criu.pid, flush=True), os.kill(os.getpid(), 9))\n"
        "with dumprun.started(['touch', sys.argv[1]], Path(sys.argv[2]), announce): pass\n"
    )
    command = [sys.executable, "-c", code, str(begun), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9
    end = time.monotonic() + 10
    while start_time(int(done.stdout)) is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not begun.exists()


def test_files_are_read_in_time(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper/file").write_text("x")
    (tmp_path / "shm").mkdir()
    (tmp_path / "stage").mkdir()
    overlay = rootfs.Overlay(merged=tmp_path, upper=tmp_path / "upper", prefix="trusted.overlay.")
    files = Files(
        overlay=overlay, mount_points=[], shared=tmp_path / "shm", stage=tmp_path / "stage"
    )
    files.read(time.monotonic() + 10)
    assert (files.has_rootfs, files.has_shm) == (True, False)
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["rootfs.tar"]
    (tmp_path / "stage/rootfs.tar").unlink()
    with pytest.raises(CaptureFailed, match="--timeout"):
        files.read(time.monotonic() - 1)
