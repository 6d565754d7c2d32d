"""One client connection and the connection to containerd that belongs to it.

Frames pass as they are, so whatever gRPC or HTTP/2 can express crosses: deadlines, metadata,
cancellation, trailers, compression, keepalives, flow control, and errors of a containerd that is
not there look as they look without Podthaw. Only streams of methods that somebody intercepts are
taken apart (:mod:`cri.exchange`).

Two things make that possible. Request headers are decoded to learn the method, which keeps the
header-compression table of that direction in step. And containerd is told, in the client's
SETTINGS, to compress response headers without a table, so that those of an intercepted call can
be kept, dropped or replaced.

Flow control stays exact although frames are added and dropped. DATA that is held back is credited
to its sender at once. DATA of our own takes from a window that the other end believes to have:
that debt is withheld from the next credits, and until then DATA that the window cannot take waits
in a queue while all else goes on.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cri.exchange import Exchange, FilteredStream, HookedCall, Request
from cri.http2 import frames, hpack
from cri.http2.flow import Outgoing
from cri.rpc import ResponseFilter, UnaryHook

log = logging.getLogger("podthaw.relay")

ENDLESS = frozenset({"/runtime.v1.RuntimeService/GetContainerEvents"})
"""Calls that last as long as the client; a graceful stop does not wait for them."""

MAX_UNREAD = 32 * 1024 * 1024
"""Octets for an end that does not read, beyond what asyncio and flow control hold back. What we
answer ourselves is not bound by either: credits, errors, resets."""

_LAST_PING = b"podthaw\x00"  # marks the end of what a client had sent before it learned of a stop


@dataclass(frozen=True)
class Rules:
    """What a session is to look into, and where containerd is."""

    upstream: str
    """Path of containerd's unix socket."""
    hooks: Mapping[str, UnaryHook] = field(default_factory=dict)
    filters: Mapping[str, ResponseFilter] = field(default_factory=dict)
    max_message: int = 16 * 1024 * 1024
    """containerd's limit for a request, octets."""


@dataclass(frozen=True)
class _Late:
    """DATA that waits for a window, or trailers that wait for their DATA."""

    frame: frames.Frame
    raw: bytes

    @property
    def length(self) -> int:
        """What flow control counts."""
        return self.frame.end - self.frame.start if self.frame.kind == frames.DATA else 0


class Side(asyncio.Protocol):
    """One end of a session: reads its frames, and writes what the other end or we send to it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.send_window = frames.DEFAULT_WINDOW
        self.debt = 0
        self.initial_window = frames.DEFAULT_WINDOW
        self.waiting: set[Outgoing] = set()
        self._pending = b""
        self._late: deque[_Late] = deque()
        """Frames of this end that the other end's window could not take yet."""
        self._late_size = 0
        self._full = False  # it does not read what is written
        self._unread = 0  # octets written since it has stopped to
        self.largest = frames.DEFAULT_FRAME_SIZE
        """Octets of a frame that this end may send: what the other end has announced."""
        self._stalls: set[str] = set()  # why nothing is read from this end
        self._transport: asyncio.Transport | None = None
        self._closing = self._aborted = False

    @property
    def peer(self) -> Side:
        """The other end."""
        raise NotImplementedError

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        if self._stalls:
            transport.pause_reading()
        if self._closing:
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Some octets, at any boundary."""
        if self._pending:
            data = self._pending + data
            self._pending = b""
        if self._stalls:
            self._pending = data
            return
        try:
            self._pending = self._read(data)
        except (frames.FrameError, hpack.HpackError, struct.error) as error:
            log.warning("connection closed: %s sent what HTTP/2 forbids: %s", self, error)
            self.session.close()

    def pause_writing(self) -> None:
        """This end reads slowly: the other must not be read."""
        self._full, self._unread = True, 0
        self.peer.stall("buffer")

    def resume_writing(self) -> None:
        """This end has caught up."""
        self._full = False
        self.peer.resume("buffer")

    def connection_lost(self, exc: Exception | None) -> None:
        """This end has closed, or broken off."""
        if exc is not None:
            log.debug("%s: %s", self, exc)
        self.session.lost(self)

    # for the other end and for exchanges

    def write(self, data: bytes) -> None:
        """Sends frames."""
        if self._transport is None or not data or self._aborted:
            return
        self._transport.write(data)
        if self._full:
            self._unread += len(data)
            if self._unread > MAX_UNREAD:
                log.warning("connection closed: %s does not read its answers", self)
                self.session.abort()

    def close(self) -> None:
        """Closes when everything is written."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        self._closing = self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    def stall(self, why: str) -> None:
        """Reads nothing from this end until every reason is gone."""
        if not self._stalls and self._transport is not None:
            self._transport.pause_reading()
        self._stalls.add(why)

    def resume(self, why: str) -> None:
        """A reason for not reading is gone."""
        if why not in self._stalls:
            return
        self._stalls.discard(why)
        if self._stalls or self._transport is None or self._transport.is_closing():
            return
        self._transport.resume_reading()
        self.data_received(b"")

    def window_opened(self) -> None:
        """The other end takes more DATA."""
        if self._late:
            self._catch_up()

    # reading

    def _read(self, data: bytes) -> bytes:
        """Handles the whole frames in ``data``; returns what is left over."""
        position = start = 0  # from start to position: frames that pass as they are
        exchanges = self.session.exchanges
        while (frame := frames.next_frame(data, position, self.largest)) is not None:
            kind, flags, stream = frame[:3]
            if kind == frames.DATA and not self._late and not self._holds(stream):
                # The hot path for large messages.
                length = frame.end - frame.start
                if length <= self.peer.send_window:
                    self.peer.send_window -= length
                    if flags & frames.END_STREAM:
                        self._ended(stream)
                    position = frame.end
                    continue
            if stream in exchanges and start < position:
                # What an exchange writes comes after the frames before this one.
                self.peer.write(data[start:position])
                start = position
            verdict = self._frame(frame, data[position : frame.end])
            if verdict is not None:
                self.peer.write(data[start:position] + verdict)
                start = frame.end
            position = frame.end
        if start < position:
            self.peer.write(data[start:position])
        return data[position:]

    def _frame(self, frame: frames.Frame, raw: bytes) -> bytes | None:
        """Handles one frame: None lets it pass, anything else takes its place."""
        kind, flags, stream = frame[:3]
        if kind == frames.HEADERS:
            return self._headers(frame, raw)
        if kind == frames.WINDOW_UPDATE:
            return self._window_update(stream, raw)
        if kind == frames.SETTINGS and not flags & frames.ACK:
            return self._settings(raw[frames.HEAD :])
        if kind == frames.RST_STREAM:
            if self._late:
                self._forget(stream)
            return self._reset(stream, raw)
        if kind == frames.DATA:
            if self._holds(stream):
                self._data(frame, frames.unpad(flags, raw[frames.HEAD :]))
            else:
                self._wait(_Late(frame, raw))
            return b""
        if kind == frames.PING and raw[frames.HEAD :] == _LAST_PING and flags & frames.ACK:
            self.session.quiet()
            return b""
        if kind == frames.CONTINUATION:
            raise frames.FrameError("CONTINUATION without HEADERS")
        return None

    def _wait(self, late: _Late) -> None:
        """Keeps a frame until the other end's window takes it, and those before it."""
        self._late.append(late)
        self._late_size += late.length
        if self._late_size > self.peer.send_window + self.peer.debt:
            raise frames.FrameError("more DATA than the window allows")
        self._catch_up()

    def _catch_up(self) -> None:
        """Sends what has waited for the other end's window, as far as that has opened."""
        peer, late = self.peer, self._late
        while late and late[0].length <= peer.send_window:
            first = late.popleft()
            self._late_size -= first.length
            peer.send_window -= first.length
            peer.write(first.raw)
            if first.frame.flags & frames.END_STREAM:
                self._ended(first.frame.stream)

    def _forget(self, stream: int) -> None:
        """Drops what has waited on a stream that was reset; its sender gets the credit back."""
        gone = [late for late in self._late if late.frame.stream == stream]
        for late in gone:
            self._late.remove(late)
            self._late_size -= late.length
            if late.length:
                self.write(frames.window_update(0, late.length))

    def _data(self, frame: frames.Frame, payload: bytes) -> None:
        """Takes DATA that does not pass."""
        exchange = self.session.exchanges.get(frame.stream)
        length = frame.end - frame.start
        if exchange is None:  # of a call that we have answered ourselves
            if length:
                self.write(frames.window_update(0, length))
        else:
            end = bool(frame.flags & frames.END_STREAM)
            self._exchange_data(exchange, payload, length, end=end)

    def _window_update(self, stream: int, raw: bytes) -> bytes | None:
        (increment,) = struct.unpack(">I", raw[frames.HEAD :])
        increment &= frames.MAX_WINDOW
        if stream:
            outgoing = self._outgoing(stream)
            if outgoing is None:
                return None
            outgoing.window += increment
            outgoing.pump()
            return b""
        self.send_window += increment
        repaid = min(increment, self.debt)
        self.debt -= repaid
        self.peer.window_opened()
        for outgoing in tuple(self.waiting):
            outgoing.pump()
        if not repaid:
            return None
        return frames.window_update(0, increment - repaid) if increment > repaid else b""

    def _settings(self, payload: bytes) -> bytes | None:
        values = frames.parse_settings(payload)
        self.peer.largest = max(self.peer.largest, values.get(frames.MAX_FRAME_SIZE, 0))
        window = values.get(frames.INITIAL_WINDOW_SIZE)
        if window is not None:
            difference, self.initial_window = window - self.initial_window, window
            for outgoing in self.session.outgoings(self):
                outgoing.window += difference
                outgoing.pump()
        return self._settings_for_peer(values)

    # what differs between the two ends

    def _holds(self, stream: int) -> bool:
        """Whether DATA from this end does not pass on this stream."""
        raise NotImplementedError

    def _headers(self, frame: frames.Frame, raw: bytes) -> bytes | None:
        raise NotImplementedError

    def _exchange_data(self, exchange: Exchange, payload: bytes, length: int, *, end: bool) -> None:
        raise NotImplementedError

    def _reset(self, stream: int, raw: bytes) -> bytes | None:
        raise NotImplementedError

    def _ended(self, stream: int) -> None:
        raise NotImplementedError

    def _outgoing(self, stream: int) -> Outgoing | None:
        """What we ourselves send to this end on a stream."""
        raise NotImplementedError

    def _settings_for_peer(self, values: dict[int, int]) -> bytes | None:
        raise NotImplementedError


class ClientSide(Side):
    """The end that asks: kubelet, crictl."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._decoder = hpack.Decoder()
        self._settled = False
        self._greeted = False

    @property
    def peer(self) -> Side:
        """The end that answers."""
        return self.session.upstream

    def __str__(self) -> str:
        return "the client"

    def _read(self, data: bytes) -> bytes:
        if not self._greeted:
            if len(data) < len(frames.PREFACE):
                if not frames.PREFACE.startswith(data):
                    raise frames.FrameError("not an HTTP/2 client")
                return data
            if not data.startswith(frames.PREFACE):
                raise frames.FrameError("not an HTTP/2 client")
            self._greeted = True
            self.peer.write(frames.PREFACE)
            data = data[len(frames.PREFACE) :]
        return super()._read(data)

    def _holds(self, stream: int) -> bool:
        exchange = self.session.exchanges.get(stream)
        if exchange is None:
            return stream in self.session.abandoned
        return isinstance(exchange, HookedCall)

    def _headers(self, frame: frames.Frame, raw: bytes) -> bytes | None:
        headers = self._decoder.decode(frame.block)
        session, stream = self.session, frame.stream
        if self._holds(stream):
            raise frames.FrameError(f"{len(raw)} octets of trailers after a unary request")
        if stream <= session.last_stream:
            return None
        session.last_stream = stream
        method = next((v for k, v in headers if k == b":path"), b"").decode("latin-1")
        session.open[stream] = method
        if not frame.flags & frames.END_STREAM:
            session.intercept(Request(stream, method, headers))
        return None

    def _exchange_data(self, exchange: Exchange, payload: bytes, length: int, *, end: bool) -> None:
        if isinstance(exchange, HookedCall):
            exchange.request_data(payload, length, end=end)

    def _reset(self, stream: int, raw: bytes) -> bytes | None:
        exchange = self.session.exchanges.get(stream)
        if exchange is not None:
            exchange.stop()
        self.session.finished(stream)
        return b"" if stream in self.session.abandoned else raw

    def _ended(self, stream: int) -> None:
        pass  # a call is over when its answer is

    def _outgoing(self, stream: int) -> Outgoing | None:
        exchange = self.session.exchanges.get(stream)
        return None if exchange is None else exchange.to_client

    def _settings_for_peer(self, values: dict[int, int]) -> bytes | None:
        if self._settled and frames.HEADER_TABLE_SIZE not in values:
            return None
        self._settled = True
        return frames.settings({**values, frames.HEADER_TABLE_SIZE: 0})


class UpstreamSide(Side):
    """The end that answers: containerd."""

    @property
    def peer(self) -> Side:
        """The end that asks."""
        return self.session.client

    def __str__(self) -> str:
        return "containerd"

    def _holds(self, stream: int) -> bool:
        return stream in self.session.exchanges or stream in self.session.abandoned

    def _headers(self, frame: frames.Frame, raw: bytes) -> bytes | None:
        end = bool(frame.flags & frames.END_STREAM)
        exchange = self.session.exchanges.get(frame.stream)
        if exchange is not None:
            exchange.response_headers(raw, frame.block, end=end)
            return b""
        if frame.stream in self.session.abandoned:
            return b""
        if self._late:  # these may be trailers of one that waits
            self._wait(_Late(frame, raw))
            return b""
        if end:
            self._ended(frame.stream)
        return None

    def _exchange_data(self, exchange: Exchange, payload: bytes, length: int, *, end: bool) -> None:
        exchange.response_data(payload, length, end=end)

    def _reset(self, stream: int, raw: bytes) -> bytes | None:
        exchange = self.session.exchanges.get(stream)
        if exchange is not None:
            (code,) = struct.unpack(">I", raw[frames.HEAD :])
            exchange.response_reset(raw, code)
            return b""
        if stream in self.session.abandoned:
            return b""
        self._ended(stream)
        return None

    def _ended(self, stream: int) -> None:
        self.session.finished(stream)

    def _outgoing(self, stream: int) -> Outgoing | None:
        exchange = self.session.exchanges.get(stream)
        return None if exchange is None else exchange.to_upstream

    def _settings_for_peer(self, values: dict[int, int]) -> bytes | None:
        # The client's table must not outgrow the one that we follow it with.
        if values.get(frames.HEADER_TABLE_SIZE, 0) <= hpack.DEFAULT_TABLE_SIZE:
            return None
        del values[frames.HEADER_TABLE_SIZE]
        return frames.settings(values)


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
        self.client.write(last + frames.frame(frames.PING, 0, 0, _LAST_PING))

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
