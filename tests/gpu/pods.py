"""Pods of one container over the CRI, and what their programs have printed."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.gpu.cri import Cri
from tests.gpu.daemons import CGROUP, RUN, wait

NAMESPACE = "gpu"
IMAGE = "podthaw.test/gpu:1"
"""A root file system of mount points: programs and libraries are the machine's own."""

_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Program:
    """What runs in the container."""

    command: Sequence[str]
    devices: Sequence[str] = ()
    """CDI names, as a device plugin gives them to kubelet."""
    handler: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    image: str = IMAGE
    folders: Sequence[str] = ("/usr",)
    """Folders of the machine that it sees at their own place."""


@dataclass(kw_only=True)
class Running:
    """A pod that was started."""

    cri: Cri
    name: str
    sandbox: str
    container: str
    log: Path
    asked: float = 0.0
    """When StartContainer was called; seconds since the epoch."""
    answered: float = 0.0

    def lines(self) -> list[tuple[float, dict[str, Any]]]:
        """What the program has printed, each with when it arrived."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            stamp, stream, _, text = line.split(" ", 3)
            if stream == "stdout" and text.startswith("{") and text.endswith("}"):
                found.append((_seconds(stamp), json.loads(text)))
        return found

    def errors(self) -> str:
        """The end of what it printed to standard error."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(line.split(" ", 3)[3] for line in lines if " stderr " in line)[-3000:]

    def steps(self) -> dict[int, str]:
        """The sum of each step."""
        return {value["step"]: value["sum"] for _, value in self.lines() if "step" in value}

    def is_cold(self) -> bool:
        """Whether the program started from the beginning."""
        return any("start" in value for _, value in self.lines())

    def first_step(self, after: float = 0.0) -> float:
        """When the first step that was printed after a time arrived."""
        return next(at for at, value in self.lines() if "step" in value and at > after)

    def wait_steps(self, count: int, timeout: float = 180) -> None:
        """Until so many steps are there; RuntimeError when the program has ended."""

        def there() -> bool:
            if len(self.steps()) >= count:
                return True
            if self.state() != "CONTAINER_RUNNING":
                raise RuntimeError(f"{self.name} ended: {self.errors()}")
            time.sleep(0.02)
            return False

        wait(f"step {count} of {self.name}", there, timeout)

    def wait_steps_to(self, number: int, timeout: float = 120) -> None:
        """Until the step of that number is there."""
        wait(f"step {number} of {self.name}", lambda: max(self.steps()) >= number, timeout)

    def state(self) -> str:
        """State by its name in the CRI."""
        status = self.cri.call("ContainerStatus", container_id=self.container).status
        values = status.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number
        return str(values[status.state].name)

    def exec(self, *command: str) -> tuple[int, str]:
        """Run a program in the container: status and output."""
        answer = self.cri.call(
            "ExecSync", container_id=self.container, cmd=list(command), timeout=30
        )
        return answer.exit_code, (answer.stdout + answer.stderr).decode(errors="replace")

    def remove(self) -> None:
        """Stop and remove the pod."""
        self.cri.call("StopPodSandbox", pod_sandbox_id=self.sandbox)
        self.cri.call("RemovePodSandbox", pod_sandbox_id=self.sandbox)


def start(cri: Cri, program: Program, name: str, *, snapshot: str = "") -> Running:
    """Start a pod, from a snapshot if one is named (then it may not start cold)."""
    uid, name = str(uuid.uuid4()), f"{name}-{next(_numbers)}"
    logs = f"/var/log/pods/{NAMESPACE}_{name}_{uid}"
    asked = {"podthaw.dev/snapshot": snapshot, "podthaw.dev/on-failure": "fail"}
    labels = {
        "io.kubernetes.pod.name": name,
        "io.kubernetes.pod.namespace": NAMESPACE,
        "io.kubernetes.pod.uid": uid,
    }
    namespaces = {"security_context": {"namespace_options": {"pid": "CONTAINER"}}}
    sandbox: dict[str, Any] = {
        "metadata": {"name": name, "uid": uid, "namespace": NAMESPACE},
        "hostname": name,
        "log_directory": logs,
        "labels": labels,
        "annotations": asked if snapshot else {},
        "linux": {"cgroup_parent": f"/{CGROUP}/pod{uid}", **namespaces},
    }
    Path(logs, "main").mkdir(parents=True)
    answer = cri.call("RunPodSandbox", config=sandbox, runtime_handler=program.handler)
    mounts = _mounts(program.folders)
    config = {
        "metadata": {"name": "main"},
        "image": {"image": program.image},
        "command": list(program.command),
        "envs": [{"key": key, "value": value} for key, value in program.env.items()],
        "mounts": mounts,
        "labels": labels | {"io.kubernetes.container.name": "main"},
        "log_path": "main/0.log",
        "linux": namespaces,
        "CDI_devices": [{"name": device} for device in program.devices],
    }
    made = cri.call(
        "CreateContainer",
        pod_sandbox_id=answer.pod_sandbox_id,
        config=config,
        sandbox_config=sandbox,
    )
    running = Running(
        cri=cri,
        name=name,
        sandbox=answer.pod_sandbox_id,
        container=made.container_id,
        log=Path(logs, "main/0.log"),
    )
    running.asked = time.time()
    cri.call("StartContainer", container_id=made.container_id)
    running.answered = time.time()
    return running


def last_result() -> dict[str, Any]:
    """What the shim reports of the restore that was the last."""
    results = sorted(RUN.glob("plans/*/result.json"), key=lambda path: path.stat().st_mtime)
    if not results:
        return {}
    value: dict[str, Any] = json.loads(results[-1].read_text())
    return value


def _mounts(folders: Iterable[str]) -> list[dict[str, Any]]:
    programs = str(Path(__file__).parent / "programs")
    places = {"/programs": programs, **{folder: f"/host{folder}" for folder in folders}}
    return [
        {"container_path": place, "host_path": source, "readonly": True}
        for place, source in places.items()
    ]


def _seconds(stamp: str) -> float:
    """RFC 3339 with nanoseconds, as containerd writes it."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    digits = fraction.partition("+")[0]
    return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{digits or 0}")
