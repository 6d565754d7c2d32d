"""A CRI server of gRPC's own implementation, with a handler for each method that a test names."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from cri.relay import Relay
from cri.rpc import Interceptor

RUNTIME = "/runtime.v1.RuntimeService/"
OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 200),
]

Handler = Callable[[AsyncIterator[bytes], "grpc.aio.ServicerContext[bytes, bytes]"], Any]


@dataclass
class FakeCri(grpc.GenericRpcHandler):
    """Methods by their short name; each is a stream of messages in, a stream of messages out."""

    path: Path
    handlers: dict[str, Handler] = field(default_factory=dict)
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    server: grpc.aio.Server | None = None

    def unary(self, name: str, answer: Callable[[bytes, Any], Awaitable[bytes]]) -> None:
        async def handler(
            requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
        ) -> AsyncIterator[bytes]:
            async for request in requests:
                self.requests.append((name, request))
                yield await answer(request, context)

        self.handlers[name] = handler

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        handler = self.handlers.get(details.method.rpartition("/")[2])
        return None if handler is None else grpc.stream_stream_rpc_method_handler(handler)

    async def start(self) -> None:
        self.server = grpc.aio.server(options=OPTIONS)
        self.server.add_generic_rpc_handlers((self,))
        self.server.add_insecure_port(f"unix:{self.path}")
        await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(None)
        self.path.unlink(missing_ok=True)


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def channel(path: Path, **options: object) -> grpc.aio.Channel:
    # Channels that share a target share connections unless told otherwise.
    chosen = {**dict(OPTIONS), "grpc.use_local_subchannel_pool": 1, **options}
    return grpc.aio.insecure_channel(f"unix:{path}", options=list(chosen.items()))


@dataclass
class Pair:
    """The same server, directly and through the relay."""

    cri: FakeCri
    relay: Relay
    direct: grpc.aio.Channel
    relayed: grpc.aio.Channel
    path: Path

    def unary(self, name: str) -> Callable[..., Any]:
        return self.relayed.unary_unary(RUNTIME + name)


@asynccontextmanager
async def pair(
    folder: Path, interceptor: Interceptor | None = None, *, start: bool = True
) -> AsyncIterator[Pair]:
    cri = FakeCri(folder / "containerd.sock")
    if start:
        await cri.start()
    relay = Relay(str(cri.path), interceptor)
    path = folder / "podthaw.sock"
    await relay.serve(listen(path))
    direct, relayed = channel(cri.path), channel(path)
    try:
        yield Pair(cri, relay, direct, relayed, path)
    finally:
        await relayed.close()
        await direct.close()
        await relay.stop(0.2)
        await cri.stop()


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs an asynchronous test, with a limit."""

    async def limited() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(limited())
