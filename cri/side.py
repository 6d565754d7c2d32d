"""One end of a session: its frames are read here, and what the other end sends it is written.

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
from dataclasses import dataclass
from typing import Protocol

from cri.exchange import Exchange, Request
from cri.http2 import frames, hpack
from cri.http2.flow import Outgoing

log = logging.getLogger("podthaw.relay")

MAX_UNREAD = 32 * 1024 * 1024
"""Octets for an end that does not read, beyond what asyncio and flow control hold back. What we
answer ourselves is not bound by either: credits, errors, resets."""

LAST_PING = b"podthaw\x00"
"""Marks the end of what a client had sent before it learned of a stop."""


@dataclass(frozen=True)
class Late:
    """DATA that waits for a window, or trailers that wait for their DATA."""

    frame: frames.Frame
    raw: bytes

    @property
    def length(self) -> int:
        """What flow control counts."""
        return self.frame.end - self.frame.start if self.frame.kind == frames.DATA else 0


class Pair(Protocol):
    """What a side needs of its session (:class:`cri.session.Session`)."""

    last_stream: int
    open: dict[int, str]
    exchanges: dict[int, Exchange]
    abandoned: set[int]

    @property
    def client(self) -> Side:
        """The end that asks."""

    @property
    def upstream(self) -> Side:
        """The end that answers."""

    def intercept(self, request: Request) -> None:
        """Takes a new stream apart if somebody looks into its method."""

    def outgoings(self, side: Side) -> list[Outgoing]:
        """What we ourselves send to a side."""

    def finished(self, stream: int) -> None:
        """A call is over."""

    def quiet(self) -> None:
        """The client knows of the stop."""

    def lost(self, side: Side) -> None:
        """One end is gone."""

    def close(self) -> None:
        """Closes both ends, after what is written."""

    def abort(self) -> None:
        """Closes both ends at once."""


class Side(asyncio.Protocol):
    """One end of a session: reads its frames, and writes what the other end or we send to it."""

    def __init__(self, session: Pair) -> None:
        self.session = session
        self.send_window = frames.DEFAULT_WINDOW
        self.debt = 0
        self.initial_window = frames.DEFAULT_WINDOW
        self.waiting: set[Outgoing] = set()
        self._pending = b""
        self._late: deque[Late] = deque()
        """Frames of this end that the other end's window could not take yet."""
        self._late_size = 0
        self._announced: deque[int | None] = deque()
        """Of each of its SETTINGS that is not acknowledged: the initial window, if it has one."""
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
        if kind == frames.SETTINGS:
            return self._settings(raw[frames.HEAD :], acknowledged=bool(flags & frames.ACK))
        if kind == frames.RST_STREAM:
            if self._late:
                self._forget(stream)
            return self._reset(stream, raw)
        if kind == frames.DATA:
            if self._holds(stream):
                self._data(frame, frames.unpad(flags, raw[frames.HEAD :]))
            else:
                self.wait(Late(frame, raw))
            return b""
        if kind == frames.PING and raw[frames.HEAD :] == LAST_PING and flags & frames.ACK:
            self.session.quiet()
            return b""
        if kind == frames.CONTINUATION:
            raise frames.FrameError("CONTINUATION without HEADERS")
        return None

    def wait(self, late: Late) -> None:
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

    def _settings(self, payload: bytes, *, acknowledged: bool) -> bytes | None:
        if acknowledged:
            # Only when it has been written may DATA follow that counts on it.
            asyncio.get_running_loop().call_soon(self.peer.settings_acknowledged)
            return None
        values = frames.parse_settings(payload)
        self.peer.largest = max(self.peer.largest, values.get(frames.MAX_FRAME_SIZE, 0))
        self._announced.append(values.get(frames.INITIAL_WINDOW_SIZE))
        return self._settings_for_peer(values)

    def settings_acknowledged(self) -> None:
        """This end has got the acknowledgement of its SETTINGS: until then the old ones hold.

        RFC 9113 section 6.5.3; gRPC's C core breaks the connection when DATA comes earlier.
        """
        window = self._announced.popleft() if self._announced else None
        if window is None:
            return
        difference, self.initial_window = window - self.initial_window, window
        for outgoing in tuple(self.session.outgoings(self)):
            outgoing.window += difference
            outgoing.pump()

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
