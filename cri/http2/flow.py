"""Flow control towards one end of a connection (RFC 9113 section 5.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from cri.http2 import frames


class Sink(Protocol):
    """One end of a connection, as whoever sends to it sees it."""

    send_window: int
    """Octets of DATA that this end still takes on the connection."""
    debt: int
    """How much of what was sent here the other end does not know of: it was not its own."""
    initial_window: int
    """Octets that this end takes on a new stream."""
    waiting: set[Outgoing]
    """Those who have more to send than the windows allow."""

    def write(self, data: bytes) -> None:
        """Sends frames."""


class Outgoing:
    """What we ourselves send on one stream: DATA as the windows open, other frames in order."""

    def __init__(self, sink: Sink, stream: int, drained: Callable[[], None] | None = None) -> None:
        self._sink = sink
        self._stream = stream
        self._drained = drained
        self._queue: deque[bytes | memoryview] = deque()
        self._final = b""
        self._end_stream = False
        self.window = sink.initial_window
        self.backlog = 0
        """Octets of DATA not yet sent."""

    def data(self, content: bytes, *, end_stream: bool = False) -> None:
        """Sends content as DATA; with ``end_stream`` nothing may follow."""
        if content:
            self._queue.append(memoryview(content))
            self.backlog += len(content)
        self._end_stream = self._end_stream or end_stream
        self.pump()

    def finish(self, frame: bytes) -> None:
        """Sends a last frame, such as trailers, after all DATA."""
        self._final = frame
        self.pump()

    def cancel(self) -> None:
        """Forgets what was not sent."""
        self._queue.clear()
        self.backlog = 0
        self._final = b""
        self._end_stream = False
        self._sink.waiting.discard(self)

    def pump(self) -> None:
        """Sends as much as the windows allow; to be called again when one has opened."""
        sink, queue = self._sink, self._queue
        while queue:
            content = queue[0]
            size = min(len(content), self.window, sink.send_window, frames.DEFAULT_FRAME_SIZE)
            if size <= 0:
                sink.waiting.add(self)
                return
            piece, rest = bytes(content[:size]), content[size:]
            if rest:
                queue[0] = rest
            else:
                queue.popleft()
            self.window -= size
            sink.send_window -= size
            sink.debt += size
            self.backlog -= size
            last = self._end_stream and not queue
            sink.write(
                frames.frame(frames.DATA, frames.END_STREAM if last else 0, self._stream, piece)
            )
            self._end_stream = self._end_stream and not last
        sink.waiting.discard(self)
        if self._end_stream:
            self._end_stream = False
            sink.write(frames.frame(frames.DATA, frames.END_STREAM, self._stream))
        if self._final:
            final, self._final = self._final, b""
            sink.write(final)
        if self._drained is not None:
            self._drained()
