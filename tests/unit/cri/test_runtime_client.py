# ruff: noqa: ARG001  # a handler has the arguments that gRPC gives it
from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.http2.client import Client
from cri.proto import cri_pb2 as pb
from cri.rpc import RpcError, StatusCode
from cri.runtime_client import RuntimeClient, SyncRuntimeClient
from tests.unit.cri.fake_cri import RUNTIME, FakeCri, run


@asynccontextmanager
async def fake(folder: Path) -> AsyncIterator[FakeCri]:
    cri = FakeCri(folder / "containerd.sock")
    await cri.start()
    try:
        yield cri
    finally:
        await cri.stop()


async def status(request: bytes, context: Any) -> bytes:
    asked = pb.ContainerStatusRequest.FromString(request)
    if asked.container_id == "none":
        await context.abort(
            grpc.StatusCode.NOT_FOUND, "no ü", (("grpc-status-details-bin", b"\x08\x05"),)
        )
    answer = pb.ContainerStatusResponse(status=pb.ContainerStatus(id=asked.container_id))
    if asked.verbose:
        answer.info["info"] = "x" * 3_000_000
    return answer.SerializeToString()


def test_calls_and_their_errors(tmp_path: Path) -> None:
    async def test() -> None:
        async with fake(tmp_path) as cri:
            cri.unary("ContainerStatus", status)
            client = RuntimeClient(f"unix://{cri.path}")
            assert (await client.container_status("a")).status.id == "a"
            large = await client.container_status("b", verbose=True)
            assert len(large.info["info"]) == 3_000_000
            with pytest.raises(RpcError) as failure:
                await client.container_status("none")
            error = failure.value
            assert (error.code, error.message) == (StatusCode.NOT_FOUND, "no ü")
            assert error.details == b"\x08\x05"
            with pytest.raises(RpcError) as unknown:
                await client.version()
            assert unknown.value.code is StatusCode.UNIMPLEMENTED
            several = await asyncio.gather(
                *(client.container_status(str(n), verbose=n % 3 == 0) for n in range(20))
            )
            assert [one.status.id for one in several] == [str(n) for n in range(20)]
            client.close()

    run(test())


def test_a_large_request_waits_for_its_windows(tmp_path: Path) -> None:
    async def test() -> None:
        async with fake(tmp_path) as cri:

            async def size(request: bytes, context: Any) -> bytes:
                return b"%d" % len(request)

            cri.unary("Size", size)
            client = Client(str(cri.path))
            requests = [bytes(number * 700_000) for number in range(1, 8)]
            answers = await asyncio.gather(
                *(client.unary(RUNTIME + "Size", request, 20) for request in requests)
            )
            assert answers == [b"%d" % len(request) for request in requests]
            client.close()

    run(test())


def test_a_timeout_and_a_cancel_reach_the_server(tmp_path: Path) -> None:
    async def test() -> None:
        async with fake(tmp_path) as cri:
            ended: asyncio.Queue[str] = asyncio.Queue()

            async def slow(request: bytes, context: Any) -> bytes:
                try:
                    await asyncio.sleep(30)
                finally:
                    ended.put_nowait("ended")
                return b""

            cri.unary("Version", slow)
            client = RuntimeClient(str(cri.path), timeout=0.3)
            with pytest.raises(RpcError) as failure:
                await client.version()
            assert failure.value.code is StatusCode.DEADLINE_EXCEEDED
            assert await asyncio.wait_for(ended.get(), 5)
            patient = RuntimeClient(str(cri.path), timeout=20)
            task = asyncio.ensure_future(patient.version())
            await asyncio.sleep(0.3)
            task.cancel()
            assert await asyncio.wait_for(ended.get(), 5)
            client.close()
            patient.close()

    run(test())


def test_it_connects_again_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        client = RuntimeClient(str(tmp_path / "containerd.sock"))
        for _ in range(2):
            with pytest.raises(RpcError) as failure:
                await client.container_status("a")
            assert failure.value.code is StatusCode.UNAVAILABLE
            assert "No such file" in failure.value.message
            async with fake(tmp_path) as cri:
                cri.unary("ContainerStatus", status)
                assert (await client.container_status("a")).status.id == "a"
            await asyncio.sleep(0.05)  # the end of the connection is noticed
        client.close()

    run(test())


def test_an_answer_that_is_no_message_is_an_error(tmp_path: Path) -> None:
    async def test() -> None:
        async with fake(tmp_path) as cri:

            async def garbage(request: bytes, context: Any) -> bytes:
                return b"\xff\xff"

            cri.unary("Version", garbage)
            client = RuntimeClient(str(cri.path))
            with pytest.raises(RpcError) as failure:
                await client.version()
            assert failure.value.code is StatusCode.INTERNAL
            client.close()

    run(test())


@contextmanager
def fake_in_a_thread(folder: Path) -> Iterator[Path]:
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with fake(folder) as cri:
            cri.unary("ContainerStatus", status)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield folder / "containerd.sock"
    finally:
        stop.set()
        thread.join()


def test_the_client_without_an_event_loop(tmp_path: Path) -> None:
    with fake_in_a_thread(tmp_path) as path, SyncRuntimeClient(str(path)) as client:
        assert client.container_status("a").status.id == "a"
        assert client.container_status("b", verbose=True).status.id == "b"
        with pytest.raises(RpcError, match="NOT_FOUND: no ü"):
            client.container_status("none")
