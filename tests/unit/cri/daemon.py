"""A node without containerd: the interceptor over a real store, and calls as kubelet makes them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cri.intercept import Interceptor
from cri.proto import cri_pb2 as pb
from cri.records import Record, Records
from cri.rpc import Metadata, RpcError, StatusCode
from cri.runtime import Options
from cri.store import Store
from shim import host, plan
from shim.plan import Result
from tests.unit.cri import snapshots

T = TypeVar("T")
RUNTIME = "/runtime.v1.RuntimeService/"
SANDBOX = "5" * 64


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end on a fresh event loop, with a limit."""

    async def limited() -> T:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(limited())


class FakeCall:
    """One call of kubelet; containerd's answer is prepared by the test."""

    def __init__(
        self, method: str, request: bytes, answer: bytes | RpcError, remaining: float | None = 60.0
    ) -> None:
        self.method = RUNTIME + method
        self.request = request
        self.metadata: Metadata = ()
        self.answer = answer
        self.forwarded: bytes | None = None
        self.held = False
        self.reached = asyncio.Event()
        self._remaining = remaining

    def remaining(self) -> float | None:
        return self._remaining

    async def forward(self, request: bytes | None = None) -> bytes:
        assert self.forwarded is None, "a call can be forwarded once"
        self.forwarded = self.request if request is None else request
        self.reached.set()
        if self.held:
            await asyncio.Event().wait()
        if isinstance(self.answer, RpcError):
            raise self.answer
        return self.answer

    def abort(self, code: StatusCode, message: str) -> NoReturn:
        raise RpcError(code, message)


class FakeRuntime:
    """containerd as the daemon asks it."""

    def __init__(self) -> None:
        self.handlers = ["", "runc", "podthaw"]
        self.handler = "podthaw"
        self.addresses = ["10.88.0.9"]
        self.image_id = snapshots.IMAGE
        self.image_info = {
            "info": '{"imageSpec": {"config": {"Entrypoint": ["/serve"], '
            '"Cmd": ["--model", "small"]}}}'
        }
        self.exits: dict[str, tuple[float, int]] = {}
        self.sandboxes = [SANDBOX]
        self.down = False
        self.asked: list[str] = []

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise RpcError(StatusCode.UNAVAILABLE, "connection refused")

    async def status(self) -> pb.StatusResponse:
        self._ask("Status")
        return pb.StatusResponse(
            runtime_handlers=[pb.RuntimeHandler(name=name) for name in self.handlers]
        )

    async def pod_sandbox_status(self, sandbox: str) -> pb.PodSandboxStatusResponse:
        self._ask("PodSandboxStatus")
        first, *more = [*self.addresses, ""]
        network = pb.PodSandboxNetworkStatus(
            ip=first, additional_ips=[pb.PodIP(ip=one) for one in more]
        )
        status = pb.PodSandboxStatus(id=sandbox, runtime_handler=self.handler, network=network)
        return pb.PodSandboxStatusResponse(status=status)

    async def list_pod_sandbox(self) -> list[pb.PodSandbox]:
        self._ask("ListPodSandbox")
        return [pb.PodSandbox(id=one) for one in self.sandboxes]

    async def container_status(self, container: str) -> pb.ContainerStatusResponse:
        self._ask("ContainerStatus")
        if container not in self.exits:
            raise RpcError(StatusCode.NOT_FOUND, "no such container")
        finished, code = self.exits[container]
        return pb.ContainerStatusResponse(
            status=pb.ContainerStatus(finished_at=int(finished * 1e9), exit_code=code)
        )

    async def image_status(
        self,
        image: pb.ImageSpec,
        *,
        verbose: bool = False,
    ) -> pb.ImageStatusResponse:
        self._ask("ImageStatus")
        assert image.image
        answer = pb.ImageStatusResponse(image=pb.Image(id=self.image_id))
        if verbose:
            answer.info.update(self.image_info)
        return answer


class Node:
    """A node with a store, in a folder of the test."""

    def __init__(self, folder: Path, **options: Any) -> None:
        criu = folder / "criu"
        criu.write_text('#!/bin/sh\necho "Version: 4.2.1"\n')
        criu.chmod(0o755)
        self.folder = folder
        self.runtime = FakeRuntime()
        self.store = Store(folder / "store", node="node-1")
        self.store.create()
        self.options = Options(
            run=folder / "run", state=folder / "state", criu=str(criu), **options
        )
        self.records = Records(self.options.run)
        self.interceptor = Interceptor(self.options, self.store, self.runtime)
        self.containers = 0

    def restart(self) -> None:
        """Another daemon takes over."""
        self.interceptor = Interceptor(self.options, self.store, self.runtime)

        async def work() -> None:
            await self.interceptor.start()
            while any(one.result and not one.concluded for one in self.records.all()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # outcomes are concluded beside the start

        run(work())

    def snapshot(self, name: str = "small", namespace: str = "default", **changes: Any) -> str:
        """Publish a snapshot that fits this host; its digest."""
        facts = host.facts(self.options.criu)
        with self.store.stage() as stage:
            data, _ = snapshots.write(stage, **{"host": facts, **changes})
            digest = self.store.publish(stage, data)
        self.store.set_name(namespace, name, digest)
        return digest

    def create_request(
        self,
        pod_annotations: dict[str, str],
        container: str = "web",
        attempt: int = 0,
        **config: Any,
    ) -> bytes:
        """A CreateContainerRequest as kubelet makes it."""
        return pb.CreateContainerRequest(
            pod_sandbox_id=SANDBOX,
            config=pb.ContainerConfig(
                metadata=pb.ContainerMetadata(name=container, attempt=attempt),
                image=pb.ImageSpec(image="example/web:1"),
                **config,
            ),
            sandbox_config=sandbox_config(pod_annotations),
        ).SerializeToString()

    def create(self, annotations: dict[str, str], **request: Any) -> FakeCall:
        """CreateContainer; the call, with what containerd was sent."""
        self.containers += 1
        answer = pb.CreateContainerResponse(container_id=self.container_id)
        call = FakeCall(
            "CreateContainer",
            self.create_request(annotations, **request),
            answer.SerializeToString(),
        )
        self.serve(call)
        return call

    @property
    def container_id(self) -> str:
        """The container that was created last."""
        return f"{self.containers:064x}"

    def start(self, result: Result | None = None, error: RpcError | None = None) -> RpcError | None:
        """StartContainer of the newest container, during which the wrapper leaves a result."""
        record = self.record()
        if result is not None:
            plan.write_result(record.decision.id, result, self.options.run)
        request = pb.StartContainerRequest(container_id=self.container_id).SerializeToString()
        call = FakeCall("StartContainer", request, error or b"")
        try:
            self.serve(call)
        except RpcError as raised:
            assert call.forwarded == request
            return raised
        assert call.forwarded == request
        return None

    def restored(self, annotations: dict[str, str], **request: Any) -> Record:
        """A container created and restored."""
        self.create(annotations, **request)
        self.start(Result(outcome="restored", container_id=self.container_id))
        return self.record()

    def record(self) -> Record:
        """The record of the newest container."""
        return next(one for one in self.records.all() if one.container_id == self.container_id)

    def serve(self, call: FakeCall) -> bytes:
        """Let the interceptor answer a call, and wait for what runs beside it."""

        async def work() -> bytes:
            try:
                return await self.interceptor.hooks()[call.method](call)
            finally:
                await self.interceptor.stop()

        return run(work())

    def pins(self, digest: str) -> list[str]:
        """The plans that pin a snapshot."""
        return self.store.pins(digest)

    def plan(self, call: FakeCall) -> plan.Plan | None:
        """The plan that a forwarded CreateContainer carries, or None."""
        assert call.forwarded is not None
        request = pb.CreateContainerRequest.FromString(call.forwarded)
        plan_id = request.config.annotations.get(plan.PLAN_ANNOTATION)
        if plan_id is None:
            return None
        return plan.read(plan_id, self.options.run, owner=os.getuid())


def sandbox_config(annotations: dict[str, str]) -> pb.PodSandboxConfig:
    """The configuration of the test's pod."""
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="web-1", uid="uid-1", namespace="default"),
        hostname="web-1",
        annotations=annotations,
    )
