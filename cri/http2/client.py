"""A small gRPC client for unary calls over a unix socket: what the daemon itself asks containerd.

grpcio would do, at the price of ten more megabytes in the daemon.
"""

from __future__ import annotations

import asyncio
import itertools
import struct

from cri.http2 import frames, grpc, hpack
from cri.http2.flow import Outgoing
from cri.rpc import RpcError, StatusCode

_WINDOW = 16 * 1024 * 1024
"""Octets that containerd may send before we credit them."""


class _Reply:
    """The answer to one call, as far as it has come."""

    def __init__(self, request: Outgoing) -> None:
        self.request = request
        self.encoding = ""
        self.body = bytearray()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, error: RpcError | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class Connection(asyncio.Protocol):
    """One HTTP/2 connection as a client; implements :class:`cri.http2.flow.Sink`."""

    def __init__(self) -> None:
        self.send_window = frames.DEFAULT_WINDOW
        self.debt = 0
        self.initial_window = frames.DEFAULT_WINDOW
        self.waiting: set[Outgoing] = set()
        self.usable = True
        """False once the connection is lost or takes no more calls."""
        self._transport: asyncio.Transport | None = None
        self._decoder = hpack.Decoder()
        self._pending = b""
        self._streams = itertools.count(1, 2)
        self._replies: dict[int, _Reply] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: greets."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        grown = frames.window_update(0, _WINDOW - frames.DEFAULT_WINDOW)
        greeting = frames.settings({frames.INITIAL_WINDOW_SIZE: _WINDOW})
        transport.write(frames.PREFACE + greeting + grown)

    def write(self, data: bytes) -> None:
        """Sends frames."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    async def unary(self, method: str, request: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
        """One call; the serialized response. ``timeout`` is in seconds.

        Raises:
            RpcError: the call failed, or its time is up.
        """
        stream = next(self._streams)
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"podthaw"),
            (b"grpc-timeout", grpc.format_timeout(timeout)),
        ]
        self.write(frames.headers(stream, hpack.encode(headers), end_stream=False))
        reply = _Reply(Outgoing(self, stream))
        self._replies[stream] = reply
        reply.request.data(grpc.message(request), end_stream=True)
        try:
            async with asyncio.timeout(timeout):
                await reply.done
        except TimeoutError:
            text = f"{method}: no answer within {timeout:g} s"
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, text) from None
        finally:
            if self._replies.pop(stream, None) is not None and self.usable:
                reply.request.cancel()
                self.write(frames.rst_stream(stream, frames.ErrorCode.CANCEL))
        try:
            return grpc.decode_message(bytes(reply.body), reply.encoding)
        except grpc.Undecodable as error:
            raise RpcError(StatusCode.INTERNAL, f"{method}: {error}") from None

    def data_received(self, data: bytes) -> None:
        """Some octets, at any boundary."""
        data = self._pending + data
        try:
            self._pending = self._read(data)
        except (frames.FrameError, hpack.HpackError, struct.error) as error:
            self._lose(f"containerd sent what HTTP/2 forbids: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has gone."""
        self._lose("connection to containerd lost" + (f": {exc}" if exc else ""))

    def _lose(self, why: str) -> None:
        self.usable = False
        for stream in tuple(self._replies):
            self._end(stream, RpcError(StatusCode.UNAVAILABLE, why))

    def _end(self, stream: int, error: RpcError | None) -> None:
        reply = self._replies.pop(stream, None)
        if reply is not None:
            reply.end(error)

    def _read(self, data: bytes) -> bytes:
        position = 0
        while (frame := frames.next_frame(data, position)) is not None:
            payload = frame.block or data[frame.start : frame.end]
            self._frame(frame.kind, frame.flags, frame.stream, payload)
            position = frame.end
        return data[position:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._data(flags, stream, payload)
        elif kind == frames.HEADERS:
            self._headers(flags, stream, payload)
        elif kind == frames.RST_STREAM:
            self._end(stream, grpc.status_of_reset(*struct.unpack(">I", payload)))
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(stream, *struct.unpack(">I", payload))
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._settings(frames.parse_settings(payload))
        elif kind == frames.PING and not flags & frames.ACK:
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.GOAWAY:
            self.usable = False  # calls in flight are still answered

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        if payload:
            self.write(frames.window_update(0, len(payload)))
        reply = self._replies.get(stream)
        if reply is None:
            return
        reply.body += frames.unpad(flags, payload)
        if flags & frames.END_STREAM:
            self._end(stream, grpc.status_of([]))
        elif payload:
            self.write(frames.window_update(stream, len(payload)))

    def _headers(self, flags: int, stream: int, block: bytes) -> None:
        headers = self._decoder.decode(block)
        reply = self._replies.get(stream)
        if reply is None:
            return
        if flags & frames.END_STREAM:
            self._end(stream, grpc.status_of(headers))
        else:
            reply.encoding = dict(headers).get(b"grpc-encoding", b"").decode("latin-1")

    def _window_update(self, stream: int, increment: int) -> None:
        if stream == 0:
            self.send_window += increment
            for outgoing in tuple(self.waiting):
                outgoing.pump()
        elif stream in self._replies:
            outgoing = self._replies[stream].request
            outgoing.window += increment
            outgoing.pump()

    def _settings(self, values: dict[int, int]) -> None:
        window = values.get(frames.INITIAL_WINDOW_SIZE)
        if window is not None:
            difference, self.initial_window = window - self.initial_window, window
            for reply in self._replies.values():
                reply.request.window += difference
                reply.request.pump()
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0))


class Client:
    """Connects when it is first asked, and again after the connection was lost."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()

    async def unary(self, method: str, request: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
        """One call; the serialized response. ``timeout`` is in seconds.

        Raises:
            RpcError: the call failed; UNAVAILABLE when nothing answers on the socket.
        """
        connection = await self._connect()
        return await connection.unary(method, request, timeout)

    async def _connect(self) -> Connection:
        async with self._connecting:
            if self._connection is None or not self._connection.usable:
                loop = asyncio.get_running_loop()
                try:
                    _, self._connection = await loop.create_unix_connection(Connection, self._path)
                except OSError as error:
                    reason = error.strerror or str(error)
                    raise RpcError(
                        StatusCode.UNAVAILABLE, f"nothing answers at {self._path}: {reason}"
                    ) from None
            return self._connection

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
