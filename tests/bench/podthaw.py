"""Podthaw, and the ordinary start: pods made through the proxy, as kubelet makes them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import grpc

from tests.bench import contender, footprint, pagecache
from tests.bench.contender import Capture, Touch
from tests.bench.footprint import Footprint
from tests.bench.inside import Client, Inside, MeasurementError
from tests.bench.workload import PORT
from tests.e2e.pods import NAMESPACE, Container, Pod, Pods, Running
from tests.node import images
from tests.node.container import STATE, STORE
from tests.node.node import PREFIX

PODTHAW = f"{PREFIX}/bin/podthaw"


class PodReplica:
    """A pod with its sandbox and its container made, and not started."""

    def __init__(self, owner: Podthaw, pod: Pod) -> None:
        self.owner = owner
        self._client: Client | None = None
        self.running: Running = owner.pods.sandbox(pod)
        self.asked = self.running.asked
        begun = time.perf_counter()
        owner.pods.create(self.running, pod.containers[0])
        self.created = time.perf_counter() - begun

    def start(self) -> float:
        begun = time.perf_counter()
        self.owner.pods.start_container(self.running, self._name)
        return time.perf_counter() - begun

    def client(self) -> Client:
        if self._client is None:
            namespace = Path(f"/proc/{self.owner.inside.pid}/ns/net")
            self._client = Client(namespace, self.running.ip, PORT)
        return self._client

    def check(self) -> dict[str, float]:
        if self.owner.memory is None:
            return {}
        pod = f"{NAMESPACE}/{self.running.name}"
        (told,) = json.loads(self.owner.inside.run([PODTHAW, "status", pod, "-o", "json"]).output)
        if told["outcome"] != "restored":
            raise MeasurementError(f"{pod} was not restored: {told['outcome']}: {told['reason']}")
        return {**told["phases"]}

    def memory(self) -> Footprint:
        container = self.running.id()
        inside = footprint.of(footprint.in_cgroup(container))
        # A restored container with mapped memory has a small process beside it.
        return inside + footprint.of(footprint.named(container, "shim.guard"))

    def remove(self) -> None:
        if self._client is not None:
            self._client.close()
        self.owner.pods.remove(self.running)

    @property
    def _name(self) -> str:
        return self.running.pod.containers[0].name


class Podthaw:
    """``memory`` is how the snapshot keeps it, eager or mapped; None makes ordinary starts."""

    def __init__(self, inside: Inside, pods: Pods, memory: str | None) -> None:
        self.inside = inside
        self.pods = pods
        self.memory = memory
        self.name = memory or "cold"
        self.title = f"Podthaw, {memory}" if memory else "ordinary start"
        self._mebibytes = 0
        self._answers: dict[Touch, str] = {}
        self._folder = ""

    def capture(self, mebibytes: int) -> Capture | None:
        self._mebibytes = mebibytes
        if self.memory is None:
            return None
        original = PodReplica(self, self._pod())
        try:
            original.start()
            self._answers = contender.answers(original.client())
            told = self._capture(f"{NAMESPACE}/{original.running.name}")
        finally:
            original.remove()
        self._folder = f"{STORE}/snapshots/{told['digest'].removeprefix('sha256:')}"
        return Capture(
            frozen=told["frozen_seconds"],
            seconds=told["seconds"],
            bytes=pagecache.on_disk(self.files()),
            phases=told.get("phases") or {},
        )

    def files(self) -> list[Path]:
        return pagecache.files(self.inside.path(self._folder)) if self._folder else []

    def expected(self, touch: Touch) -> str:
        return self._answers.get(touch, "")

    def prepare(self) -> PodReplica:
        pod = self._pod()
        return PodReplica(
            self, pod.restoring(self._snapshot, on_failure="fail") if self.memory else pod
        )

    def unlearn(self) -> None:
        """Make the node forget which pages restored containers touched first.

        The proxy is started anew: it may be watching a replica that has just ended, and would
        note what that one touched.
        """
        node = self.inside.node
        node.kill("proxy")
        name = f"{self._folder.rpartition('/')[2]}.json"
        self.inside.path(f"{STATE}/node/hot/{name}").unlink(missing_ok=True)
        node.start_proxy()
        grpc.channel_ready_future(self.pods.cri.channel).result(60)

    def forget(self) -> None:
        if self._folder:
            self.inside.run([PODTHAW, "remove", f"{NAMESPACE}/{self._snapshot}"])
            self.inside.run([PODTHAW, "gc"])
            self._folder = ""

    @property
    def _snapshot(self) -> str:
        return f"bench-{self.memory}"

    def _pod(self) -> Pod:
        program, *arguments = contender.command(self._mebibytes)
        container = Container(image=images.PYTHON, command=(program,), args=arguments)
        return Pod(name=f"bench-{self.name}", containers=(container,))

    def _capture(self, pod: str) -> dict[str, Any]:
        command = [PODTHAW, "capture", pod, "--name", self._snapshot, "--output", "json"]
        command += ["--memory", str(self.memory)]
        told: dict[str, Any] = json.loads(self.inside.run(command, timeout=600).output)
        return told
