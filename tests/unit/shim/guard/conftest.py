"""A process with mapped memory, and the agent that serves it, on this machine's kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim import guard
from shim.guard import launch

PAGES = 1024
"""Size of the mapped file: 4 MiB."""


def content(first: int, count: int) -> list[int]:
    """What the file has there: the first byte of each page."""
    return [1 + page % 250 for page in range(first, first + count)]


class Target:
    """tests/unit/shim/guard/target.py, and the agent for it."""

    def __init__(self, folder: Path, python: tuple[str, ...] = (sys.executable,)) -> None:
        self.folder = folder
        self.file = folder / "pages"
        self.file.write_bytes(b"".join(bytes([1 + page % 250]) * 4096 for page in range(PAGES)))
        self.process = subprocess.Popen(
            [*python, str(Path(__file__).with_name("target.py")), str(self.file), str(PAGES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.agent: guard.Agent | None = None

    def __call__(self, code: str) -> Any:
        """Have it evaluate an expression, or execute statements."""
        self.send(code)
        return self.answer()

    def send(self, code: str) -> None:
        """The same, without waiting for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def guarded(self) -> None:
        """Install the filter and start the agent."""
        self("base")  # it runs
        cgroup = self.folder / "cgroup"
        cgroup.mkdir(exist_ok=True)
        self.members()
        self.agent = launch.start(
            "c",
            [str(cgroup)],
            run=str(self.folder / "run"),
            log=str(self.folder / "log"),
            name=str(self.file),
        )
        assert self("guard()") > 2
        self.agent.ready(time.monotonic() + 10)

    def members(self, *others: int) -> None:
        """Say which processes are the container's."""
        pids = (self.process.pid, *others)
        (self.folder / "cgroup/cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        if self.agent is not None:
            guard.stop(self.agent.pid, self.agent.started)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """A guarded process."""
    yield from _guarded(tmp_path, "")


@pytest.fixture
def low(tmp_path: Path) -> Iterator[Target]:
    """One with its memory below 4 GiB."""
    yield from _guarded(tmp_path, LOW)


LOW = """
base = 0x20000000
fd = os.open(sys.argv[1], os.O_RDONLY)
assert libc.mmap(base, size, 3, 0x100002, fd, 0) == base
os.close(fd)
"""


def _guarded(folder: Path, before: str) -> Iterator[Target]:
    if reason := guard.supported() or ("" if os.geteuid() == 0 else "only root may guard memory"):
        pytest.skip(reason)
    one = Target(folder)
    try:
        one(before)
        one.guarded()
        yield one
        assert one.log() == ""
    finally:
        one.end()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    def wait(condition: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "it did not happen within 10 seconds"
            time.sleep(0.01)

    return wait
