"""HTTP/2 frames, RFC 9113 section 4 and 6: numbers, and builders of the few that we send."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends before its first frame."""

HEAD = 9
"""Octets of a frame's head."""

DEFAULT_WINDOW = 65535
MAX_WINDOW = 2**31 - 1
DEFAULT_FRAME_SIZE = 16384
"""Every peer takes frames of this size."""

MAX_HEADERS = 1024 * 1024
"""Octets of one header block; gRPC's own limit is 16 KiB unless changed."""

MAX_CONTINUATIONS = 1000
"""Frames of one header block; without a limit empty ones would go on for ever."""

# Flags; END_STREAM of DATA and HEADERS and ACK of SETTINGS and PING share a bit.
END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20

# Settings that matter here.
HEADER_TABLE_SIZE = 0x1
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5


# Types. Plain numbers: they are compared for each frame, and an enum's look-up costs.
DATA = 0x0
HEADERS = 0x1
RST_STREAM = 0x3
SETTINGS = 0x4
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9


class ErrorCode(IntEnum):
    """Error codes of RST_STREAM and GOAWAY (RFC 9113 section 7), those that gRPC maps."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC


class FrameError(ValueError):
    """A frame that the protocol does not allow: the connection cannot go on."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def window_update(stream: int, increment: int) -> bytes:
    """Grants ``increment`` more octets; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """Ends a stream at once."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(last_stream: int, code: ErrorCode, debug: bytes = b"") -> bytes:
    """Tells the peer to open no more streams; those up to ``last_stream`` are still served."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + debug)


def headers(stream: int, block: bytes, *, end_stream: bool) -> bytes:
    """A HEADERS frame, with CONTINUATION frames where the block needs them."""
    first, rest = block[:DEFAULT_FRAME_SIZE], block[DEFAULT_FRAME_SIZE:]
    flags = (END_STREAM if end_stream else 0) | (0 if rest else END_HEADERS)
    out = frame(HEADERS, flags, stream, first)
    while rest:
        piece, rest = rest[:DEFAULT_FRAME_SIZE], rest[DEFAULT_FRAME_SIZE:]
        out += frame(CONTINUATION, 0 if rest else END_HEADERS, stream, piece)
    return out


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in values.items()))


def parse_settings(payload: bytes) -> dict[int, int]:
    """The settings of a SETTINGS frame's payload.

    Raises:
        FrameError: the length is not a multiple of six.
    """
    if len(payload) % 6:
        raise FrameError(f"SETTINGS of {len(payload)} octets, wanted a multiple of 6")
    return dict(struct.iter_unpack(">HI", payload))


def unpad(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding and priority.

    Raises:
        FrameError: more padding than payload.
    """
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise FrameError("padded frame without its length of padding")
        start, end = 1, end - payload[0]
    if start > end:
        raise FrameError("more padding than payload")
    return payload[start:end]


def header_block(flags: int, payload: bytes) -> bytes:
    """The header block fragment of a HEADERS frame's payload.

    Raises:
        FrameError: more padding than payload.
    """
    block = unpad(flags, payload)
    return block[5:] if flags & PRIORITY else block


class Frame(NamedTuple):
    """One frame, or HEADERS with its CONTINUATIONs, within the octets that were read."""

    kind: int
    flags: int
    stream: int
    start: int
    """Where its payload begins."""
    end: int
    """Where the next frame begins."""
    block: bytes
    """Of HEADERS: the whole header block."""


def next_frame(data: bytes, position: int, largest: int = DEFAULT_FRAME_SIZE) -> Frame | None:
    """The frame that begins at ``position``; None when more has to be read.

    ``largest`` is what its receiver has announced to take.

    Raises:
        FrameError: a frame above ``largest``, or a header block that is interrupted, above
            :data:`MAX_HEADERS` or in more than :data:`MAX_CONTINUATIONS` pieces.
    """
    start = position + HEAD
    if len(data) < start:
        return None
    length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
    if length > largest:
        raise FrameError(f"a frame of {length} octets, where at most {largest} are allowed")
    end = start + length
    if end > len(data):
        return None
    kind, flags = data[position + 3], data[position + 4]
    stream = int.from_bytes(data[position + 5 : start], "big") & 0x7FFFFFFF
    if kind != HEADERS:
        return Frame(kind, flags, stream, start, end, b"")
    unit = _header_unit(data, start, end, flags, largest)
    return None if unit is None else Frame(kind, flags, stream, start, unit[1], unit[0])


def _header_unit(
    data: bytes, start: int, end: int, flags: int, largest: int
) -> tuple[bytes, int] | None:
    block = header_block(flags, data[start:end])
    pieces = 0
    while not flags & END_HEADERS:
        pieces += 1
        if len(block) > MAX_HEADERS:
            raise FrameError(f"header block above {MAX_HEADERS} octets")
        if pieces > MAX_CONTINUATIONS:
            raise FrameError(f"header block of more than {MAX_CONTINUATIONS} frames")
        if len(data) - end < HEAD:
            return None
        if data[end + 3] != CONTINUATION:
            raise FrameError("HEADERS without its CONTINUATION")
        flags = data[end + 4]
        start = end + HEAD
        length = int.from_bytes(data[end : end + 3], "big")
        if length > largest:
            raise FrameError(f"a frame of {length} octets, where at most {largest} are allowed")
        end = start + length
        if end > len(data):
            return None
        block += data[start:end]
    return block, end
