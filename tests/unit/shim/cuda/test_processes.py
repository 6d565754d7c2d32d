from __future__ import annotations

import os
from pathlib import Path

from shim.cuda import processes
from shim.cuda.calls import State
from tests.unit.shim.cuda.conftest import Fake

GPU = {"linux": {"devices": [{"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0}]}}


def test_only_users_of_cuda(fake: Fake) -> None:
    program = fake.start()
    seen = processes.look(GPU, [program.pid, os.getpid(), 1], "driver")
    assert seen.states == {program.pid: State.RUNNING}
    assert seen.problem == ""


def test_nobody_is_asked_about_a_container_without_gpu() -> None:
    assert processes.look({}, [os.getpid()], "/nowhere/at/all") == processes.Look()


def test_why_nothing_is_told(fake: Fake, tmp_path: Path) -> None:
    assert fake.home.exists()
    (tmp_path / "libcuda.so.1").unlink()
    seen = processes.look(GPU, [os.getpid()], "driver")
    assert seen.states == {}
    assert "no NVIDIA driver" in seen.problem
