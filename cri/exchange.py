"""Calls that Podthaw looks into: a unary call held for a hook, or responses that are rewritten.

The request's headers have gone to containerd when an exchange begins (header compression allows
no other order), its answer's have not: they stand alone (see :mod:`cri.session`) and can be kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from cri.http2 import frames, grpc, hpack
from cri.http2.flow import Outgoing, Sink
from cri.rpc import Metadata, ResponseFilter, RpcError, StatusCode, UnaryHook

log = logging.getLogger("podthaw.relay")

MAX_BACKLOG = 256 * 1024
"""Octets of rewritten responses that may wait for a slow client before containerd has to wait."""


class Ends(Protocol):
    """What an exchange needs of its session."""

    @property
    def client(self) -> Sink:
        """Where responses go."""

    @property
    def upstream(self) -> Sink:
        """Where requests go."""

    def abandon(self, stream: int) -> None:
        """Resets the stream towards containerd, whatever it still sends on it."""

    def finished(self, stream: int) -> None:
        """The exchange is over: what still comes for the stream passes."""


@dataclass(frozen=True)
class Request:
    """What is known when a stream begins."""

    stream: int
    method: str
    headers: hpack.Headers
    received: float = field(default_factory=time.monotonic)

    def header(self, name: bytes) -> str:
        """A header's value, or an empty text."""
        return next((v.decode("latin-1") for k, v in self.headers if k == name), "")


class FilteredStream:
    """A call whose request passes as it is, and whose response messages are rewritten."""

    def __init__(self, ends: Ends, request: Request, rewrite: ResponseFilter) -> None:
        self._ends = ends
        self._request = request
        self._rewrite = rewrite
        self._encoding = ""
        self._body = bytearray()
        self._owed = 0  # stream credit that containerd gets when the client has caught up
        self._ended = False
        self.to_upstream: Outgoing | None = None
        self.to_client = Outgoing(ends.client, request.stream, self._drained)

    def response_headers(self, raw: bytes, block: bytes, *, end: bool) -> None:
        """Initial headers or trailers."""
        if end:
            if self._body:  # not a whole message: not ours to judge
                self.to_client.data(bytes(self._body))
            self._ended = True
            self.to_client.finish(raw)
        else:
            self._encoding = encoding_of(block)
            self._ends.client.write(raw)

    def response_data(self, payload: bytes, length: int, *, end: bool) -> None:
        """A piece of the body; ``length`` is what flow control counts."""
        self._body += payload
        self._ends.upstream.write(frames.window_update(0, length))
        while (size := grpc.message_size(self._body)) is not None:
            stop = grpc.PREFIX + size
            if len(self._body) < stop:
                break
            self.to_client.data(self._rewritten(bytes(self._body[:stop])))
            del self._body[:stop]
        if end:
            self._ended = True
            self.to_client.data(bytes(self._body), end_stream=True)
            return
        self._owed += length
        self._drained()

    def _rewritten(self, raw: bytes) -> bytes:
        try:
            content = grpc.decode_message(raw, self._encoding)
            changed = self._rewrite(content)
        except grpc.Undecodable as error:
            log.warning("answer of %s passes unread: %s", self._request.method, error)
            return raw
        except Exception:  # a fault of ours must not break an ordinary pod
            log.exception("answer of %s passes unread", self._request.method)
            return raw
        return raw if changed is content else grpc.message(changed)

    def _drained(self) -> None:
        if self._ended:
            if not self.to_client.backlog:
                self._ends.finished(self._request.stream)
        elif self._owed and self.to_client.backlog <= MAX_BACKLOG:
            credit = frames.window_update(self._request.stream, self._owed)
            self._owed = 0
            self._ends.upstream.write(credit)

    def response_reset(self, raw: bytes, _code: int) -> None:
        """The stream was reset by containerd."""
        self.stop()
        self._ends.client.write(raw)
        self._ends.finished(self._request.stream)

    def stop(self) -> None:
        """The client has gone or cancelled."""
        self.to_client.cancel()

    def upstream_lost(self) -> None:
        """The connection to containerd has gone."""
        self.stop()


class HookedCall:
    """A unary call held for a hook; the :class:`cri.rpc.Call` that it sees."""

    def __init__(
        self,
        ends: Ends,
        request: Request,
        hook: UnaryHook,
        rewrite: ResponseFilter | None,
        max_message: int,
    ) -> None:
        self._ends = ends
        self._request = request
        self._hook = hook
        self._rewrite = rewrite
        self._max_message = max_message
        self._timeout = grpc.parse_timeout(request.header(b"grpc-timeout"))
        self._raw_request = bytearray()
        self._message = b""
        self._task: asyncio.Task[None] | None = None
        self._forwarded = False
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer = _Answer()
        self._error: RpcError | None = None  # what containerd's answer was raised as
        self._gone = False  # nobody is there to answer
        self._over = False  # the whole answer is on its way
        self.to_upstream: Outgoing | None = Outgoing(ends.upstream, request.stream)
        self.to_client = Outgoing(ends.client, request.stream, self._sent)

    # What the hook sees.

    @property
    def method(self) -> str:
        """See :class:`cri.rpc.Call`."""
        return self._request.method

    @property
    def request(self) -> bytes:
        """See :class:`cri.rpc.Call`."""
        return self._message

    @property
    def metadata(self) -> Metadata:
        """See :class:`cri.rpc.Call`."""
        return grpc.metadata_of(self._request.headers)

    def remaining(self) -> float | None:
        """See :class:`cri.rpc.Call`."""
        if self._timeout is None:
            return None
        return max(0.0, self._request.received + self._timeout - time.monotonic())

    def abort(self, code: int, message: str) -> NoReturn:
        """See :class:`cri.rpc.Call`."""
        raise RpcError(code, message)

    async def forward(self, request: bytes | None = None) -> bytes:
        """See :class:`cri.rpc.Call`."""
        if self._forwarded:
            raise RuntimeError(f"{self.method}: a call can be forwarded once")
        self._forwarded = True
        assert self.to_upstream is not None  # noqa: S101  # only a filtered stream has none
        raw = bytes(self._raw_request) if request is None else grpc.message(request)
        self._raw_request.clear()
        self.to_upstream.data(raw, end_stream=True)
        await asyncio.shield(self._answered)
        return self._answer_content()

    def _answer_content(self) -> bytes:
        answer = self._answer
        self._error = answer.error()
        if self._error is None:
            try:
                return grpc.decode_message(bytes(answer.body), answer.encoding)
            except grpc.Undecodable as error:
                log.warning("answer of %s passes unread: %s", self.method, error)
                self._error = RpcError(StatusCode.INTERNAL, f"answer of containerd: {error}")
        raise self._error

    # What the session tells.

    def request_data(self, payload: bytes, length: int, *, end: bool) -> None:
        """A piece of the request."""
        if self._task is not None:
            raise frames.FrameError("DATA after the end of a request")
        # The client may send on, here and on other streams: nothing of it has gone upstream.
        self._ends.client.write(frames.window_update(0, length) if length else b"")
        self._raw_request += payload
        size = grpc.message_size(self._raw_request)
        if size is not None and size > self._max_message:
            # What containerd says itself, to the letter.
            text = f"grpc: received message larger than max ({size} vs. {self._max_message})"
            self._raw_request.clear()
            self._fail(RpcError(StatusCode.RESOURCE_EXHAUSTED, text))
            if not end:
                reset = frames.rst_stream(self._request.stream, frames.ErrorCode.NO_ERROR)
                self._ends.client.write(reset)
        elif end:
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif length:
            self._ends.client.write(frames.window_update(self._request.stream, length))

    def response_headers(self, raw: bytes, block: bytes, *, end: bool) -> None:
        """Initial headers or trailers."""
        if end:
            self._answer.trailers, self._answer.trailers_block = raw, block
            self._settle()
        else:
            self._answer.initial, self._answer.encoding = raw, encoding_of(block)

    def response_data(self, payload: bytes, length: int, *, end: bool) -> None:
        """A piece of the response."""
        stream = self._request.stream
        self._answer.body += payload
        if length:
            credit = frames.window_update(0, length)
            if not end:
                credit += frames.window_update(stream, length)
            self._ends.upstream.write(credit)
        if end:
            self._settle()

    def response_reset(self, raw: bytes, code: int) -> None:
        """The stream was reset by containerd."""
        self._answer.reset = self._answer.reset or grpc.status_of_reset(code)
        self._answer.trailers = self._answer.trailers or raw
        self._settle()

    def stop(self) -> None:
        """The client has gone or cancelled."""
        self._gone = True
        if self._task is not None:
            self._task.cancel()
        if self.to_upstream is not None:
            self.to_upstream.cancel()
        self.to_client.cancel()

    def upstream_lost(self) -> None:
        """The connection to containerd has gone: the hook learns it from its forward."""
        self._gone = True
        self._answer.reset = RpcError(StatusCode.UNAVAILABLE, "connection to containerd lost")
        if self._task is not None and not self._forwarded:
            self._task.cancel()
        self._settle()

    def _settle(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)

    # How it ends.

    async def _run(self) -> None:
        try:
            await self._serve()
        except asyncio.CancelledError:
            log.debug("%s: cancelled", self.method)
            if not self._gone:  # neither the client nor containerd: we are stopping
                self._fail(RpcError(StatusCode.UNAVAILABLE, "podthaw is stopping"))

    async def _serve(self) -> None:
        deadline = asyncio.timeout(self.remaining())
        try:
            encoding = self._request.header(b"grpc-encoding")
            self._message = grpc.decode_message(bytes(self._raw_request), encoding)
            async with deadline:
                response = await self._hook(self)
        except grpc.Undecodable as error:
            log.warning("%s passes unread: %s", self.method, error)
            await self._pass()
        except RpcError as error:
            if error is self._error:
                await self._pass()
            else:
                self._fail(error)
        except Exception as error:  # a fault of ours must not break a pod
            if isinstance(error, TimeoutError) and deadline.expired():
                self._fail(RpcError(StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded"))
                return
            log.exception("%s: unexpected; the call passes as it came", self.method)
            await self._pass()
        else:
            self._finish(response)

    async def _pass(self) -> None:
        """Asks containerd if nobody has, and relays its answer as it is."""
        if not self._forwarded:
            with contextlib.suppress(RpcError):  # that is the answer
                await self.forward()
        await asyncio.shield(self._answered)
        answer = self._answer
        self._end(answer.initial, bytes(answer.body), answer.trailers)

    def _finish(self, response: bytes) -> None:
        if self._rewrite is not None:
            try:
                response = self._rewrite(response)
            except Exception:  # a fault of ours must not break an ordinary pod
                log.exception("answer of %s passes unread", self.method)
        stream, answer = self._request.stream, self._answer
        if self._answered.done() and answer.error() is None and answer.initial:
            initial, trailers = answer.initial, answer.trailers
        else:
            self._abandon()
            initial = frames.headers(stream, grpc.RESPONSE_BLOCK, end_stream=False)
            trailers = frames.headers(stream, grpc.trailers_block(None), end_stream=True)
        self._end(initial, grpc.message(response), trailers)

    def _fail(self, error: RpcError) -> None:
        self._abandon()
        block = grpc.RESPONSE_BLOCK + grpc.trailers_block(error)
        self._end(b"", b"", frames.headers(self._request.stream, block, end_stream=True))

    def _abandon(self) -> None:
        """Tells containerd, which knows of the call, that nobody waits for an answer."""
        assert self.to_upstream is not None  # noqa: S101  # only a filtered stream has none
        self.to_upstream.cancel()
        if not self._answered.done() and not self._gone:
            self._ends.abandon(self._request.stream)

    def _end(self, initial: bytes, body: bytes, trailers: bytes) -> None:
        if self._gone:
            return
        if initial:
            self._ends.client.write(initial)
        self.to_client.data(body, end_stream=not trailers)
        self._over = True
        self.to_client.finish(trailers)

    def _sent(self) -> None:
        if self._over and not self.to_client.backlog:
            self._ends.finished(self._request.stream)


class _Answer:
    """containerd's answer to a held call, kept as it came."""

    def __init__(self) -> None:
        self.initial = b""
        self.encoding = ""
        self.body = bytearray()
        self.trailers = b""
        self.trailers_block = b""
        self.reset: RpcError | None = None

    def error(self) -> RpcError | None:
        """How the call ended."""
        if self.reset is not None:
            return self.reset
        return grpc.status_of(hpack.Decoder().decode(self.trailers_block))


def encoding_of(block: bytes) -> str:
    """The compression that a response's initial headers announce."""
    headers = dict(hpack.Decoder().decode(block))
    return headers.get(b"grpc-encoding", b"").decode("latin-1")


Exchange = FilteredStream | HookedCall
