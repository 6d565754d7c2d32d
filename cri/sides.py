"""What differs between the two ends of a session: who asks, and who answers."""

from __future__ import annotations

import struct

from cri.exchange import Exchange, HookedCall, Request
from cri.http2 import frames, hpack
from cri.http2.flow import Outgoing
from cri.side import Late, Pair, Side


class ClientSide(Side):
    """The end that asks: kubelet, crictl."""

    def __init__(self, session: Pair) -> None:
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
            self.wait(Late(frame, raw))
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
