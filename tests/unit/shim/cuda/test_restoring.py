from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from shim.cuda import FILE, restoring, session
from shim.cuda.calls import State
from shim.cuda.restoring import GpuRestore
from shim.errors import Broken, Unfit
from shim.journal import Journal, path_of
from shim.plan import Plan
from tests.unit.shim.cuda.conftest import Fake
from tests.unit.shim.cuda.test_dumping import state
from tests.unit.shim.cuda.test_processes import GPU
from tests.unit.shim.cuda.test_session import soon, suspend


def plan(images: Path, **more: Any) -> Plan:
    values: dict[str, Any] = {
        "id": "0" * 32,
        "created": 0.0,
        "namespace": "n",
        "pod": "p",
        "pod_uid": "u",
        "sandbox_id": "s",
        "container": "c",
        "attempt": 0,
        "name": "snap",
        "snapshot": "sha256:0",
        "snapshot_dir": "/s",
        "images": str(images),
        "cuda": "driver",
    }
    return Plan(**{**values, **more})


class Restored:
    """Processes as CRIU would have brought them back, and what a restore needs."""

    def __init__(self, fake: Fake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake = fake
        self.programs = [fake.start(), fake.start()]
        self.pids = sorted(program.pid for program in self.programs)
        self.write(self.pids)
        (folder / "run/restores").mkdir(parents=True)
        self.record = Journal(
            container="c", plan="0" * 32, root="/r", bundle="/b", runtime="/runc",
            global_options=[], cgroups=["/group"], rootfs_path="/x",
            path=path_of(f"{folder}/run", "c"),
        )  # fmt: skip
        self.run = f"{folder}/run"
        # Not this machine's own /dev and cgroups:
        self.placed: list[str] = []
        monkeypatch.setattr(
            restoring.devices, "place_nodes", lambda root, _: self.placed.append(root)
        )
        everybody = {*self.pids, os.getpid()}
        monkeypatch.setattr(restoring.cgroups, "processes", lambda _: everybody)

    def write(self, pids: list[int]) -> None:
        (self.fake.home / FILE).write_text(json.dumps({"processes": pids}))

    def plan(self, **more: Any) -> Plan:
        first, second = (gpu.uuid for gpu in self.fake.gpus)
        maps = {"gpu_map": {first: second}, "gpus": {"0": first, "1": second}}
        return plan(self.fake.home, **{**maps, **more})


@pytest.fixture
def restored(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restored:
    return Restored(fake, tmp_path, monkeypatch)


def spec(number: int) -> dict[str, Any]:
    node = {"path": f"/dev/nvidia{number}", "type": "c", "major": 195, "minor": number}
    return {"linux": {"devices": [node]}}


def test_restored_in_create_and_unlocked_at_start(restored: Restored) -> None:
    suspend(restored.programs)
    gpu = GpuRestore(restored.plan(), spec(1))
    gpu.restore(restored.record, 77, soon())
    gpu.close()
    assert restored.placed == ["/proc/77/root"]
    assert {state(program) for program in restored.programs} == {State.LOCKED}
    assert sorted(map(int, restored.record.locked)) == restored.pids
    restoring.unlock_at_start(restored.run, "c")
    second = restored.fake.gpus[1].uuid
    for program in restored.programs:
        assert second in restored.fake.goes_on(program)
    restoring.unlock_at_start(restored.run, "c")  # a second time there is nothing to do
    assert len([line for line in restored.fake.log() if line[0] == "unlock"]) == 2


def test_unlocked_at_once_for_a_hook(restored: Restored) -> None:
    suspend(restored.programs)
    gpu = GpuRestore(restored.plan(), spec(1))
    gpu.restore(restored.record, 77, soon())
    gpu.unlock(restored.record, soon())
    gpu.close()
    assert restored.record.locked == {}
    restored.fake.goes_on(restored.programs[0])


def test_the_gpus_must_match_before_anything_is_touched(restored: Restored) -> None:
    with pytest.raises(Unfit, match="/dev/nvidia5"):
        GpuRestore(restored.plan(), spec(5))
    with pytest.raises(Unfit, match="wants 1 GPU, found 0"):
        GpuRestore(restored.plan(), {})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"processes": ["7"]}', '{"processes": 7}'])
def test_a_list_of_processes_that_is_none(restored: Restored, text: str) -> None:
    (restored.fake.home / FILE).write_text(text)
    with pytest.raises(Broken, match=r"cuda\.json"):
        GpuRestore(restored.plan(), GPU)


def test_processes_that_the_driver_does_not_know(restored: Restored) -> None:
    """As if CRIU had brought one of them back without what the driver knows it by."""
    suspend(restored.programs)
    missing = [*restored.pids, restored.pids[-1] + 1]
    restored.write(missing)
    gpu = GpuRestore(restored.plan(), spec(1))
    with pytest.raises(Unfit, match=f"wanted process {missing[0]}, .*{missing[2]} of the snapshot"):
        gpu.restore(restored.record, 77, soon())
    gpu.close()


def test_a_process_in_another_state(restored: Restored) -> None:
    gpu = GpuRestore(restored.plan(), spec(1))
    with pytest.raises(Unfit, match="is running for the NVIDIA driver after"):
        gpu.restore(restored.record, 77, soon())
    gpu.close()


def test_an_unlock_that_fails_at_start_is_told(restored: Restored) -> None:
    suspend(restored.programs)
    gpu = GpuRestore(restored.plan(), spec(1))
    gpu.restore(restored.record, 77, soon())
    gpu.close()
    restored.fake.fault("unlock", "error 999 0 1")
    with pytest.raises(Unfit, match="has not unlocked"):
        restoring.unlock_at_start(restored.run, "c")
    session.bring_back("driver", {pid: _started(pid) for pid in restored.pids})


def test_nothing_to_unlock(tmp_path: Path) -> None:
    restoring.unlock_at_start(str(tmp_path), "absent")


def _started(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text[text.rfind(")") + 2 :].split()[19])


def test_the_helper_is_no_child_that_stays(restored: Restored) -> None:
    suspend(restored.programs)
    gpu = GpuRestore(restored.plan(), spec(1))
    gpu.restore(restored.record, 77, soon())
    gpu.close()
    deadline = time.monotonic() + 5
    while subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "shim.cuda"], capture_output=True, check=False
    ).stdout:
        assert time.monotonic() < deadline
