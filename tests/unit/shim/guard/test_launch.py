from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shim import guard
from shim.errors import Unfit
from shim.guard import Agent, launch

Wait = Callable[[Callable[[], object]], None]
ROOT = str(Path(__file__).parents[4])


def start(folder: Path) -> Agent:
    return guard.start("c", [str(folder / "none")], run=str(folder), log=str(folder / "log"))


def ends(agent: Agent) -> int:
    """The exit status, once it has ended."""
    end = time.monotonic() + 10
    while True:
        pid, status = os.waitpid(agent.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        assert time.monotonic() < end, "it does not end"
        time.sleep(0.01)


def test_without_a_process_to_serve_it_says_so_and_ends(tmp_path: Path) -> None:
    agent = start(tmp_path)
    with pytest.raises(Unfit, match="no process of the container has the filter"):
        agent.ready(time.monotonic() + 10)
    assert ends(agent) == 1
    assert "no process of the container" in (tmp_path / "log").read_text()
    assert list((tmp_path / "guards").iterdir()) == []


def test_when_its_starter_gives_up_it_ends(tmp_path: Path, eventually: Wait) -> None:
    agent = start(tmp_path)
    eventually((tmp_path / "guards/c.lock").exists)
    os.close(agent.order)
    assert ends(agent) == 1
    assert not (tmp_path / "log").exists()
    assert list((tmp_path / "guards").iterdir()) == []


def test_one_that_does_not_answer_in_time(tmp_path: Path, eventually: Wait) -> None:
    agent = start(tmp_path)
    eventually((tmp_path / "guards/c.lock").exists)
    os.kill(agent.pid, signal.SIGSTOP)
    with pytest.raises(Unfit, match="not ready in time"):
        agent.ready(time.monotonic() + 0.05)
    guard.stop(agent.pid, agent.started)


def test_one_that_has_ended(tmp_path: Path) -> None:
    agent = start(tmp_path)
    guard.stop(agent.pid, agent.started)
    with pytest.raises(Unfit, match=r"guards its memory (is gone|has ended)"):
        agent.ready(time.monotonic() + 10)


def test_it_has_nothing_of_its_starter(tmp_path: Path, eventually: Wait) -> None:
    (tmp_path / "file").write_text("")
    with (tmp_path / "file").open() as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003
        agent = start(tmp_path)
        eventually((tmp_path / "guards/c.lock").exists)
        proc = Path(f"/proc/{agent.pid}")
        links = {int(one.name): str(one.readlink()) for one in (proc / "fd").iterdir()}
        assert [links.pop(number) for number in range(3)] == [os.devnull] * 3
        assert {link.partition(":")[0] for link in links.values()} == {
            "pipe",
            str(tmp_path / "guards/c.lock"),
        }
        assert os.getsid(agent.pid) == agent.pid
        assert str((proc / "cwd").readlink()) == "/"
        assert (proc / "environ").read_bytes() == b""
    guard.stop(agent.pid, agent.started)


def test_a_starter_that_is_killed(tmp_path: Path, eventually: Wait) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {ROOT!r})\n"
        "from shim import guard\n"
        f"a = guard.start('c', [], run={str(tmp_path)!r}, log='/dev/null')\n"
        "print(a.pid, a.started, flush=True)\n"
        "sys.stdin.read(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as starter:
        assert starter.stdout is not None
        pid, started = map(int, starter.stdout.readline().split())
        eventually((tmp_path / "guards/c.lock").exists)
        os.killpg(starter.pid, signal.SIGHUP)
        starter.wait()
        eventually(lambda: launch._started(pid) != started)


def test_only_the_very_process_is_stopped() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        guard.stop(other.pid, launch._started(other.pid) + 1)
        time.sleep(0.05)
        assert other.poll() is None
        guard.stop(other.pid, launch._started(other.pid))
        assert launch._started(other.pid) == 0
    guard.stop(other.pid, 1)


def test_a_pause_without_an_agent(tmp_path: Path) -> None:
    with guard.paused(str(tmp_path), "c"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(Unfit, match="cannot start"):
        start(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
