"""Fake GPUs on a test node: driver, device nodes, and pods with programs that use them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests import fakegpu
from tests.e2e.pods import Container, Pod, Running
from tests.fakegpu import DEVICES, HOME, Gpu
from tests.node import images
from tests.node.node import Node

PROGRAM = f"{HOME}/program"
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Call:
    """A line of the driver's log."""

    name: str
    pid: int
    """Inside the container."""
    begin: int
    end: int
    """Nanoseconds."""
    result: int


class Gpus:
    """The GPUs of one node."""

    def __init__(self, node: Node, count: int = 2) -> None:
        self.node = node
        self.all = [Gpu(number=number) for number in range(count)]
        folders = " ".join(f"{HOME}/{gpu.uuid}" for gpu in self.all)
        node.exec(["sh", "-c", f"mkdir -p -m 777 {HOME} {HOME}/faults {folders}"])
        for gpu, (major, minor) in zip(self.all, DEVICES, strict=False):
            script = f'[ -e "$0" ] || mknod -m 666 "$0" c {major} {minor}'
            node.exec(["sh", "-c", script, f"/dev/nvidia{gpu.number}"])
        self.write(*self.all)
        node.write(PROGRAM, fakegpu.program().read_bytes(), mode=0o755)
        self.install()

    def install(self, *, old: bool = False) -> None:
        """The driver's libraries."""
        node = self.node
        driver = fakegpu.driver(old=old).read_bytes()
        for name, data in (
            ("libcuda.so.1", driver),
            ("libnvidia-ml.so.1", fakegpu.nvml().read_bytes()),
        ):
            # A new file: a process may have the old one mapped.
            node.exec(["rm", "-f", f"{_LIBRARIES}/{name}"])
            node.write(f"{_LIBRARIES}/{name}", data, mode=0o755)

    def remove(self) -> None:
        """Take the driver away: a node without GPUs."""
        names = " ".join(f"{_LIBRARIES}/{name}" for name in ("libcuda.so.1", "libnvidia-ml.so.1"))
        self.node.exec(["sh", "-c", f"rm -f {names}"])

    def write(self, *gpus: Gpu) -> None:
        """What the driver and NVML find."""
        self.node.write(f"{HOME}/gpus", "".join(map(str, gpus)))

    def nvml(self, *, driver: str = "580.159.04", ecc: int = 1, mig: int = 0) -> None:
        """What NVML tells of the driver and its modes."""
        self.node.write(f"{HOME}/nvml", f"{driver} 9 0 {ecc} {mig}\n")

    def delays(self, text: str = "0 0 0 0 0") -> None:
        """Milliseconds of init, lock, checkpoint, restore, unlock."""
        self.node.write(f"{HOME}/delays", text)

    def fault(self, call: str, what: str, *, pid: int | str = "any") -> None:
        """``what`` as fakecuda.c has it: what, code, skip, times."""
        self.node.write(f"{HOME}/faults/{call}-{pid}", what)

    def log(self) -> list[Call]:
        """The calls since the last :meth:`clear`."""
        text = self.node.exec(["cat", f"{HOME}/log"], check=False).stdout
        words = [line.split() for line in text.splitlines()]
        return [Call(word[0], *map(int, word[1:])) for word in words]

    def clear(self) -> None:
        """No faults, no delays, an empty log, the usual GPUs."""
        script = f"rm -f {HOME}/faults/* {HOME}/log {HOME}/delays {HOME}/nvml {HOME}/version"
        self.node.exec(["sh", "-c", script])
        self.write(*self.all)

    def pod(self, *arguments: str, gpus: Sequence[int] = (0,), **more: Any) -> Pod:
        """A pod with a program that uses GPUs."""
        return Pod(name="gpu", containers=[self.container(*arguments, gpus=gpus, **more)])

    def container(self, *arguments: str, gpus: Sequence[int] = (0,), **more: Any) -> Container:
        """Its container."""
        nodes = [f"/dev/nvidia{number}" for number in gpus]
        return Container(
            image=images.BUSYBOX,
            command=(PROGRAM,),
            args=arguments,
            mounts=[{"container_path": HOME, "host_path": HOME}],
            devices=[
                {"container_path": node, "host_path": node, "permissions": "rw"} for node in nodes
            ],
            **more,
        )


@dataclass(frozen=True)
class Step:
    """A line that a program has printed."""

    pid: int
    number: int
    gpu: str


def steps(pod: Running) -> list[Step]:
    """What the programs of a pod have computed; they have never found a wrong value."""
    text = pod.log()
    assert "WRONG" not in text, text[-1000:]
    found = re.findall(r"^(\d+) step (\d+) ok (GPU-\S+)$", text, re.MULTILINE)
    return [Step(int(pid), int(number), gpu) for pid, number, gpu in found]


def wait_for_steps(pod: Running, *, users: int = 1, timeout: float = 30) -> list[Step]:
    """Until each of ``users`` programs has computed some steps more; the new ones."""
    before = len(steps(pod))

    def moved() -> bool:
        new = steps(pod)[before:]
        by_pid = {step.pid: 0 for step in new}
        for step in new:
            by_pid[step.pid] += 1
        return len(by_pid) >= users and min(by_pid.values()) >= 3

    pod.pods.node.wait(f"computing of {pod.name}", moved, timeout=timeout, every=0.1)
    return steps(pod)[before:]


def stands(pod: Running) -> bool:
    """Whether nothing is computed for a while."""
    before = len(steps(pod))
    pod.pods.node.exec(["sleep", "0.6"])
    return len(steps(pod)) <= before + 1
