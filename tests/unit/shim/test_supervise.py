"""A program that is run, watched and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shim import supervise
from shim.errors import Unfit

REPOSITORY = Path(__file__).parents[3]


def soon() -> float:
    return time.monotonic() + 20


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: object, seconds: float = 10) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 9", 9), ("kill -9 $$", 137)])
def test_the_status(script: str, status: int) -> None:
    assert supervise.run("/bin/sh", ["-c", script], soon()) == status


def test_a_deadline_kills_the_whole_group(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    begun = time.monotonic()
    with pytest.raises(supervise.DeadlineError):
        supervise.run("/bin/sh", ["-c", script], begun + 0.5)
    assert time.monotonic() - begun < 5
    child = int((tmp_path / "pid").read_text())
    assert until(lambda: not alive(child))


def test_output_and_environment(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
    try:
        supervise.run(
            "/bin/sh", ["-c", 'echo "$A"; echo err >&2'], soon(),
            environment={"A": "value"}, output=fd,
        )  # fmt: skip
    finally:
        os.close(fd)
    assert (tmp_path / "out").read_text() == "value\nerr\n"


def test_a_program_that_is_none() -> None:
    with pytest.raises(Unfit, match="/absent/runc cannot be started"):
        supervise.run("/absent/runc", [], soon())


def test_a_signal_handler_that_raises_ends_the_program(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(_number: int, _frame: object) -> None:
        raise Stop

    def when_it_runs() -> None:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    threading.Thread(target=when_it_runs).start()
    try:
        with pytest.raises(Stop):
            supervise.run("/bin/sh", ["-c", f"echo $$ > {tmp_path}/pid; sleep 60"], soon())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_the_program_dies_with_a_killed_supervisor(tmp_path: Path) -> None:
    code = (
        "import time\nfrom shim import supervise\n"
        f"supervise.run('/bin/sh', ['-c', 'echo $$ > {tmp_path}/pid; exec sleep 60'], "
        "time.monotonic() + 60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as supervisor:
        assert until((tmp_path / "pid").exists)
        assert until(lambda: (tmp_path / "pid").read_text().strip() != "")
        supervisor.kill()
    child = int((tmp_path / "pid").read_text())
    assert until(lambda: not alive(child))


def test_descendants_whose_parent_was_killed_are_killed_too() -> None:
    script = """
import os, subprocess
from shim import supervise
supervise.adopt_orphans()
command = ["sh", "-c", "sleep 600 & echo $!; wait"]
child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
grandchild = int(child.stdout.readline())
os.kill(child.pid, 9)
child.wait()
supervise.kill_children()
print(grandchild)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert not alive(int(done.stdout))


@pytest.mark.parametrize(
    ("script", "status", "output"),
    [
        ("echo a; echo b >&2; exit 3", 3, b"a\nb\n"),
        ("cat; echo end", 0, b"end\n"),
        ("kill -9 $$", 137, b""),
        ("sleep 60 & echo left", 0, b"left\n"),
    ],
)
def test_what_it_prints(script: str, status: int, output: bytes) -> None:
    begun = time.monotonic()
    assert supervise.output_of("/bin/sh", ["-c", script], soon()) == (status, output)
    assert time.monotonic() - begun < 10


def test_only_the_end_of_much_output_is_kept() -> None:
    script = "head -c 5000000 /dev/zero | tr '\\0' x; echo the end"
    status, output = supervise.output_of("/bin/sh", ["-c", script], soon(), limit=20)
    assert (status, output) == (0, b"x" * 12 + b"the end\n")


def test_a_program_that_prints_for_ever_ends_at_its_deadline(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; exec yes"
    with pytest.raises(supervise.DeadlineError):
        supervise.output_of("/bin/sh", ["-c", script], time.monotonic() + 0.5)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_output_of_a_program_that_is_not_there() -> None:
    with pytest.raises(Unfit, match="/nowhere cannot be started"):
        supervise.output_of("/nowhere", [], soon())


NAMESPACE = """
import os, signal, subprocess, sys, time
from shim import supervise
supervise.adopt_orphans()
outer = subprocess.Popen(["unshare", "--pid", "--fork", "sleep", "600"])
def children(pid):
    return open(f"/proc/{pid}/task/{pid}/children").read().split()
while not (first := children(outer.pid)):
    time.sleep(0.01)
while open(f"/proc/{first[0]}/comm").read() != "sleep\\n":
    time.sleep(0.01)
enter = subprocess.Popen(["nsenter", "--pid", "--target", first[0], "sleep", "600"])
while not (other := children(enter.pid)):
    time.sleep(0.01)
for one in (outer, enter):  # now both sleepers are ours, the first of the namespace first
    one.kill()
    one.wait()
assert children(os.getpid()) == first + other
supervise.kill_children()
assert not children(os.getpid())
print("none left")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
def test_children_that_cannot_end_one_before_the_other() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NAMESPACE],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("none left\n", "")
