"""One client connection and the connection to containerd that belongs to it.

Frames pass as they are, so whatever gRPC or HTTP/2 can express crosses: deadlines, metadata,
cancellation, trailers, compression, keepalives, flow control, and errors of a containerd that is
not there look as they look without Podthaw. Only streams of methods that somebody intercepts are
taken apart (:mod:`cri.exchange`).

Two things make that possible. Request headers are decoded to learn the method, which keeps the
header-compression table of that direction in step. And containerd is told, in the client's
SETTINGS, to compress response headers without a table, so that those of an intercepted call can
be kept, dropped or replaced.

Flow control is kept in :mod:`cri.side`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cri.exchange import Exchange, FilteredStream, HookedCall, Request
from cri.http2 import frames
from cri.http2.flow import Outgoing
from cri.rpc import ResponseFilter, UnaryHook
from cri.side import LAST_PING, Side
from cri.sides import ClientSide, UpstreamSide

ENDLESS = frozenset({"/runtime.v1.RuntimeService/GetContainerEvents"})
"""Calls that last as long as the client; a graceful stop does not wait for them."""


@dataclass(frozen=True)
class Rules:
    """What a session is to look into, and where containerd is."""

    upstream: str
    """Path of containerd's unix socket."""
    hooks: Mapping[str, UnaryHook] = field(default_factory=dict)
    filters: Mapping[str, ResponseFilter] = field(default_factory=dict)
    max_message: int = 16 * 1024 * 1024
    """containerd's limit for a request, octets."""


class Session:
    """The pair, its calls, and its end."""

    def __init__(
        self,
        rules: Rules,
        over: Callable[[Session], None],
        reached: Callable[[OSError | None], None],
    ) -> None:
        self._rules = rules
        self._over = over
        self._reached = reached
        self._connecting: asyncio.Task[None] | None = None
        self._draining = self._quiet = self._closed = False
        self.client = ClientSide(self)
        self.upstream = UpstreamSide(self)
        self.client.stall("connecting")
        self.last_stream = 0
        self.open: dict[int, str] = {}
        """Calls in flight, with their methods."""
        self.exchanges: dict[int, Exchange] = {}
        self.abandoned: set[int] = set()
        """Streams that we have reset towards containerd while the client has our answer."""

    def begin(self) -> None:
        """Connects to containerd; where that fails the client sees its connection close."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: self.upstream, self._rules.upstream)
        except OSError as error:
            self._reached(error)
            self.close()
            return
        self._reached(None)
        self.client.resume("connecting")

    def intercept(self, request: Request) -> None:
        """Takes a new stream apart if somebody looks into its method."""
        hook = self._rules.hooks.get(request.method)
        rewrite = self._rules.filters.get(request.method)
        if hook is not None:
            self.exchanges[request.stream] = HookedCall(
                self, request, hook, rewrite, self._rules.max_message
            )
        elif rewrite is not None:
            self.exchanges[request.stream] = FilteredStream(self, request, rewrite)

    def outgoings(self, side: Side) -> list[Outgoing]:
        """What we ourselves send to a side."""
        if side is self.client:
            return [exchange.to_client for exchange in self.exchanges.values()]
        return [e.to_upstream for e in self.exchanges.values() if e.to_upstream is not None]

    def abandon(self, stream: int) -> None:
        """Resets a stream towards containerd; see :class:`cri.exchange.Ends`."""
        self.abandoned.add(stream)
        self.upstream.write(frames.rst_stream(stream, frames.ErrorCode.CANCEL))

    def finished(self, stream: int) -> None:
        """A call is over; see :class:`cri.exchange.Ends`."""
        self.exchanges.pop(stream, None)
        self.open.pop(stream, None)
        if self._draining:
            # Not before the frames that are being handled are written.
            asyncio.get_running_loop().call_soon(self._close_if_idle)

    def drain(self) -> None:
        """Lets the client open no more calls, and closes when those in flight are over."""
        self._draining = True
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            self.close()
            return
        last = frames.goaway(frames.MAX_WINDOW, frames.ErrorCode.NO_ERROR, b"podthaw stops")
        self.client.write(last + frames.frame(frames.PING, 0, 0, LAST_PING))

    def quiet(self) -> None:
        """The client knows of the stop: no call can come any more that is not in flight."""
        self._quiet = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._quiet and all(method in ENDLESS for method in self.open.values()):
            self.close()

    def close(self) -> None:
        """Closes both ends, after what is written."""
        self.client.close()
        self.upstream.close()
        if self._connecting is not None:
            self._connecting.cancel()

    def abort(self) -> None:
        """Closes both ends at once."""
        self.close()
        self.client.abort()
        self.upstream.abort()

    def lost(self, side: Side) -> None:
        """One end is gone."""
        for exchange in tuple(self.exchanges.values()):
            if side is self.client:
                exchange.stop()
            else:
                exchange.upstream_lost()
        self.close()
        if side is self.client and not self._closed:
            self._closed = True
            self._over(self)
