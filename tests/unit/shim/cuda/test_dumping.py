from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shim.container import ContainerRef
from shim.cuda import FILE
from shim.cuda.calls import State
from shim.cuda.dumping import GpuDump
from shim.cuda.helper import Helper
from shim.errors import Unfit
from tests.unit.shim.cuda.conftest import Fake
from tests.unit.shim.cuda.test_processes import GPU


def container(program: subprocess.Popen[bytes], spec: dict[str, Any]) -> ContainerRef:
    return ContainerRef(
        id="c",
        bundle=Path("/b"),
        rootfs=Path("/r"),
        pid=program.pid,
        started=0,
        spec=spec,
        cgroups={},
        descriptors=(),
    )


def state(program: subprocess.Popen[bytes]) -> State:
    with Helper() as helper:
        return helper.states([program.pid], time.monotonic() + 10)[program.pid]


def test_there_and_back(fake: Fake, tmp_path: Path) -> None:
    program = fake.start()
    announced: list[list[int]] = []
    dump = GpuDump(container(program, GPU), "driver")
    dump.suspend(tmp_path, announced.append, time.monotonic() + 10)
    assert announced == [[program.pid]]
    assert dump.pids == [program.pid]
    assert json.loads((tmp_path / FILE).read_text()) == {"processes": [program.pid]}
    assert state(program) is State.CHECKPOINTED
    assert dump.still_seconds == 0.0
    dump.resume()
    dump.close()
    assert set(dump.phases) == {"cuda_lock", "cuda_checkpoint", "cuda_resume"}
    assert dump.still_seconds >= dump.phases["cuda_checkpoint"] + dump.phases["cuda_resume"]
    fake.goes_on(program)


def test_a_process_tree_is_looked_through(fake: Fake, tmp_path: Path) -> None:
    program = fake.start("--children", "2", "--parent-idle")
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    (tmp_path / "cgroup.procs").write_text("\n".join([str(program.pid), *children]))
    whole = replace(container(program, GPU), cgroups={"freezer": str(tmp_path)})
    dump = GpuDump(whole, "driver")
    dump.suspend(tmp_path, lambda _: None, time.monotonic() + 10)
    assert dump.pids == sorted(map(int, children))
    dump.resume()
    dump.close()
    for child in children:
        os.kill(int(child), signal.SIGKILL)


def test_a_container_without_gpu_costs_nothing(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake.start()
    monkeypatch.setattr("shim.cuda.dumping.Helper", None)
    dump = GpuDump(container(program, {}), "driver")
    dump.suspend(tmp_path, lambda _: None, time.monotonic() + 10)
    dump.resume()
    dump.close()
    assert (dump.pids, dump.phases, dump.still_seconds) == ([], {}, 0.0)
    assert not (tmp_path / FILE).exists()


def test_a_gpu_that_nobody_uses(fake: Fake, tmp_path: Path) -> None:
    assert fake.home.exists()
    sleeper = subprocess.Popen(["sleep", "60"])
    dump = GpuDump(container(sleeper, GPU), "driver")
    dump.suspend(tmp_path, lambda _: None, time.monotonic() + 10)
    dump.resume()
    dump.close()
    assert not (tmp_path / FILE).exists()
    sleeper.kill()
    sleeper.wait()


def test_a_resume_that_fails_is_told(fake: Fake, tmp_path: Path) -> None:
    program = fake.start()
    dump = GpuDump(container(program, GPU), "driver")
    dump.suspend(tmp_path, lambda _: None, time.monotonic() + 10)
    fake.fault("restore", "error 999 0 1")
    with pytest.raises(Unfit, match="has not restored"):
        dump.resume()
    dump.close()
    assert state(program) is State.CHECKPOINTED
