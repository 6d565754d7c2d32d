"""The calls that Podthaw itself makes to containerd's CRI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.message import DecodeError, Message

from cri.http2.client import Client
from cri.proto import cri_pb2 as pb
from cri.rpc import RpcError, StatusCode

_RUNTIME = "/runtime.v1.RuntimeService/"
_IMAGE = "/runtime.v1.ImageService/"

TIMEOUT = 10.0
"""Seconds for one call: all of them only read, but exec_sync, which has its own time."""

_GRACE = 5.0
"""Seconds that containerd has to end a program whose time is up, and to say so."""

_M = TypeVar("_M", bound=Message)
_T = TypeVar("_T")


def socket_path(address: str) -> str:
    """The path in an address as containerd and kubelet write it, with or without ``unix://``."""
    return address.removeprefix("unix://")


class RuntimeClient:
    """Asks containerd; every method raises :class:`cri.rpc.RpcError` with its answer.

    Connects at the first call, and again when containerd has restarted.
    """

    def __init__(self, address: str, *, timeout: float = TIMEOUT) -> None:
        self._client = Client(socket_path(address))
        self._timeout = timeout

    async def _ask(
        self, method: str, request: Message, kind: type[_M], seconds: float | None = None
    ) -> _M:
        limit = seconds or self._timeout
        raw = await self._client.unary(method, request.SerializeToString(), limit)
        try:
            return kind.FromString(raw)
        except DecodeError as error:
            raise RpcError(StatusCode.INTERNAL, f"{method}: {error}") from None

    async def version(self) -> pb.VersionResponse:
        """Name and version of the runtime."""
        return await self._ask(_RUNTIME + "Version", pb.VersionRequest(), pb.VersionResponse)

    async def status(self) -> pb.StatusResponse:
        """Conditions and runtime handlers."""
        return await self._ask(_RUNTIME + "Status", pb.StatusRequest(), pb.StatusResponse)

    async def pod_sandbox_status(
        self, sandbox: str, *, verbose: bool = False
    ) -> pb.PodSandboxStatusResponse:
        """Network, metadata and state of a sandbox."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox, verbose=verbose)
        return await self._ask(_RUNTIME + "PodSandboxStatus", request, pb.PodSandboxStatusResponse)

    async def list_pod_sandbox(
        self,
        filter: pb.PodSandboxFilter | None = None,  # noqa: A002  # CRI's name
    ) -> list[pb.PodSandbox]:
        """The sandboxes that match."""
        request = pb.ListPodSandboxRequest(filter=filter)
        answer = await self._ask(_RUNTIME + "ListPodSandbox", request, pb.ListPodSandboxResponse)
        return list(answer.items)

    async def container_status(
        self, container: str, *, verbose: bool = False
    ) -> pb.ContainerStatusResponse:
        """State of a container; ``verbose`` adds ``info``, a JSON text of containerd's own."""
        request = pb.ContainerStatusRequest(container_id=container, verbose=verbose)
        return await self._ask(_RUNTIME + "ContainerStatus", request, pb.ContainerStatusResponse)

    async def list_containers(
        self,
        filter: pb.ContainerFilter | None = None,  # noqa: A002  # CRI's name
    ) -> list[pb.Container]:
        """The containers that match."""
        request = pb.ListContainersRequest(filter=filter)
        answer = await self._ask(_RUNTIME + "ListContainers", request, pb.ListContainersResponse)
        return list(answer.containers)

    async def image_status(
        self, image: pb.ImageSpec, *, verbose: bool = False
    ) -> pb.ImageStatusResponse:
        """An image; without ``image`` in the answer when it is not there."""
        request = pb.ImageStatusRequest(image=image, verbose=verbose)
        return await self._ask(_IMAGE + "ImageStatus", request, pb.ImageStatusResponse)

    async def exec_sync(
        self, container: str, command: Sequence[str], seconds: float
    ) -> pb.ExecSyncResponse:
        """Run a program in a container and wait for it, about ``seconds`` at most.

        containerd ends it then and answers DEADLINE_EXCEEDED; so it does when we vanish.
        """
        request = pb.ExecSyncRequest(
            container_id=container, cmd=command, timeout=max(1, int(seconds))
        )
        grace = request.timeout + _GRACE
        return await self._ask(_RUNTIME + "ExecSync", request, pb.ExecSyncResponse, grace)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()


class SyncRuntimeClient:
    """The same for code without an event loop, such as the command line.

    A context manager: ``with SyncRuntimeClient(address) as cri: cri.version()``.
    """

    def __init__(self, address: str, *, timeout: float = TIMEOUT) -> None:
        self._runner = asyncio.Runner()
        self._address = address
        self._timeout = timeout
        self._client: RuntimeClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, ask: Callable[[RuntimeClient], Awaitable[_T]]) -> _T:
        async def run() -> _T:
            if self._client is None:
                self._client = RuntimeClient(self._address, timeout=self._timeout)
            return await ask(self._client)

        return self._runner.run(run())

    def version(self) -> pb.VersionResponse:
        """See :meth:`RuntimeClient.version`."""
        return self._call(RuntimeClient.version)

    def status(self) -> pb.StatusResponse:
        """See :meth:`RuntimeClient.status`."""
        return self._call(RuntimeClient.status)

    def pod_sandbox_status(
        self, sandbox: str, *, verbose: bool = False
    ) -> pb.PodSandboxStatusResponse:
        """See :meth:`RuntimeClient.pod_sandbox_status`."""
        return self._call(lambda client: client.pod_sandbox_status(sandbox, verbose=verbose))

    def list_pod_sandbox(
        self,
        filter: pb.PodSandboxFilter | None = None,  # noqa: A002  # CRI's name
    ) -> list[pb.PodSandbox]:
        """See :meth:`RuntimeClient.list_pod_sandbox`."""
        return self._call(lambda client: client.list_pod_sandbox(filter))

    def container_status(
        self, container: str, *, verbose: bool = False
    ) -> pb.ContainerStatusResponse:
        """See :meth:`RuntimeClient.container_status`."""
        return self._call(lambda client: client.container_status(container, verbose=verbose))

    def list_containers(
        self,
        filter: pb.ContainerFilter | None = None,  # noqa: A002  # CRI's name
    ) -> list[pb.Container]:
        """See :meth:`RuntimeClient.list_containers`."""
        return self._call(lambda client: client.list_containers(filter))

    def image_status(self, image: pb.ImageSpec, *, verbose: bool = False) -> pb.ImageStatusResponse:
        """See :meth:`RuntimeClient.image_status`."""
        return self._call(lambda client: client.image_status(image, verbose=verbose))

    def exec_sync(
        self, container: str, command: Sequence[str], seconds: float
    ) -> pb.ExecSyncResponse:
        """See :meth:`RuntimeClient.exec_sync`."""
        return self._call(lambda client: client.exec_sync(container, command, seconds))

    def close(self) -> None:
        """Closes the connection and the event loop."""
        if self._client is not None:
            self._client.close()
            # The transport closes in the loop's next round.
            self._runner.run(asyncio.sleep(0))
            self._client = None
        self._runner.close()
