"""gRPC over HTTP/2: message framing, deadlines, status and metadata in headers.

The format is gRPC's "gRPC over HTTP2" protocol description.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from urllib.parse import quote, unquote_to_bytes

from cri.http2 import hpack
from cri.http2.frames import ErrorCode
from cri.rpc import Metadata, RpcError, StatusCode

PREFIX = 5
"""Octets before a message: compressed flag and length."""

MAX_INFLATED = 64 * 1024 * 1024
"""Octets of a message that was compressed: four times what containerd takes."""

_WBITS = {"gzip": 31, "deflate": 15}

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

# Request headers that are the protocol's own, not the caller's metadata.
_RESERVED = frozenset(
    {b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
)

_RESET_STATUS = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}


class Undecodable(ValueError):
    """A body that is not what a unary call carries, or is compressed in a way we cannot read."""


def message(data: bytes) -> bytes:
    """A message with its prefix, not compressed."""
    return struct.pack(">BI", 0, len(data)) + data


def message_size(body: bytes | bytearray) -> int | None:
    """Length of the first message without its prefix, or None before the prefix is complete."""
    if len(body) < PREFIX:
        return None
    return int.from_bytes(body[1:PREFIX], "big")


def decode_message(raw: bytes, encoding: str) -> bytes:
    """The content of one message with its prefix; ``encoding`` is the header grpc-encoding.

    Raises:
        Undecodable: not exactly one message, or not compressed with gzip or deflate.
    """
    if message_size(raw) != len(raw) - PREFIX:
        raise Undecodable("not exactly one message")
    if not raw[0]:
        return raw[PREFIX:]
    if encoding not in _WBITS:
        raise Undecodable(f"compressed with {encoding or 'an encoding that was not named'}")
    inflater = zlib.decompressobj(_WBITS[encoding])
    try:
        content = inflater.decompress(raw[PREFIX:], MAX_INFLATED)
    except zlib.error as error:
        raise Undecodable(f"not valid {encoding}: {error}") from None
    if inflater.unconsumed_tail:
        raise Undecodable(f"more than {MAX_INFLATED} octets when it is decompressed")
    if not inflater.eof:
        raise Undecodable(f"not valid {encoding}: it ends too early")
    return content


def parse_timeout(text: str) -> float | None:
    """The header grpc-timeout in seconds; None when it is malformed."""
    digits, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not digits.isascii() or not digits.isdigit() or len(digits) > 8:
        return None
    return int(digits) * _UNITS[unit]


def format_timeout(seconds: float) -> bytes:
    """The header grpc-timeout of a deadline in ``seconds``."""
    milliseconds = max(1, int(seconds * 1000))
    if milliseconds < 10**8:
        return b"%dm" % milliseconds
    return b"%dS" % min(int(seconds), 10**8 - 1)


def decode_binary(value: bytes) -> bytes:
    """A ``-bin`` value; senders may leave the padding out.

    gRPC's C core sends the octets themselves after a zero octet when both ends agree in SETTINGS.
    """
    if value[:1] == b"\0":
        return value[1:]
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return b""


def metadata_of(headers: hpack.Headers) -> Metadata:
    """The caller's metadata among a request's headers."""
    out: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name[:1] == b":" or name in _RESERVED:
            continue
        if name.endswith(b"-bin"):
            parts = [value] if value[:1] == b"\0" else value.split(b",")
            out.extend((name.decode("latin-1"), decode_binary(part)) for part in parts)
        else:
            out.append((name.decode("latin-1"), value.decode("latin-1")))
    return out


def status_of(trailers: hpack.Headers) -> RpcError | None:
    """The error in a response's trailers; None for OK."""
    found = dict(trailers)
    raw = found.get(b"grpc-status")
    if raw is None:
        http = found.get(b":status", b"?").decode("latin-1")
        return RpcError(StatusCode.UNKNOWN, f"answer without a gRPC status (HTTP status {http})")
    if raw == b"0":
        return None
    text = unquote_to_bytes(found.get(b"grpc-message", b"")).decode(errors="replace")
    details = decode_binary(found.get(b"grpc-status-details-bin", b""))
    return RpcError(int(raw) if raw.isdigit() else StatusCode.UNKNOWN, text, details)


def status_of_reset(code: int) -> RpcError:
    """The error that gRPC makes of a stream's reset."""
    try:
        known = ErrorCode(code)
    except ValueError:
        return RpcError(StatusCode.INTERNAL, f"stream reset with error code {code}")
    status = _RESET_STATUS.get(known, StatusCode.INTERNAL)
    return RpcError(status, f"stream reset with {known.name}")


def trailers_block(error: RpcError | None) -> bytes:
    """Trailers of a call that ended so; None is OK."""
    if error is None:
        return hpack.encode([(b"grpc-status", b"0")])
    # What is not printable ASCII, and the percent sign itself, is percent-encoded.
    safe = "".join(chr(c) for c in range(0x20, 0x7F) if c != 0x25)
    headers = [
        (b"grpc-status", b"%d" % error.code),
        (b"grpc-message", quote(error.message, safe=safe, errors="replace").encode()),
    ]
    if error.details:
        headers.append((b"grpc-status-details-bin", base64.b64encode(error.details).rstrip(b"=")))
    return hpack.encode(headers)


RESPONSE_BLOCK = hpack.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
"""Initial headers of an answer of our own."""
