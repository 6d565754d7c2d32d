from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.namespaces import in_namespace


def readlink(path: str) -> str:
    return str(Path(path).readlink())


@pytest.fixture
def other() -> Iterator[int]:
    """A process in a network and a UTS namespace of its own."""
    command = ["unshare", "--net", "--uts", "sh", "-c", "hostname elsewhere; echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_work_is_done_inside_and_nothing_else_is(other: int) -> None:
    before = readlink("/proc/self/ns/net")
    inside = in_namespace(
        f"/proc/{other}/ns/net",
        lambda: readlink(f"/proc/self/task/{threading.get_native_id()}/ns/net"),
    )
    assert inside == readlink(f"/proc/{other}/ns/net")
    assert inside != before
    assert readlink("/proc/self/ns/net") == before
    assert in_namespace(f"/proc/{other}/ns/uts", lambda: os.uname().nodename) == "elsewhere"


def test_processes_started_inside_are_inside(other: int) -> None:
    def started() -> str:
        done = subprocess.run(
            ["readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert in_namespace(f"/proc/{other}/ns/net", started) == readlink(f"/proc/{other}/ns/net")


def test_errors_come_out() -> None:
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        in_namespace("/proc/self/ns/net", fail)
    with pytest.raises(FileNotFoundError):
        in_namespace("/proc/self/ns/absent", fail)
    with pytest.raises(OSError, match="Invalid argument"):
        in_namespace("/dev/null", fail)
