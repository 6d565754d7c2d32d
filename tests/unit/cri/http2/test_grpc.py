from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.http2 import grpc
from cri.http2.hpack import Decoder
from cri.rpc import RpcError, StatusCode


@given(st.binary(max_size=500))
def test_messages_in_every_encoding(data: bytes) -> None:
    assert grpc.decode_message(grpc.message(data), "") == data
    for encoding, packed in (("gzip", gzip.compress(data)), ("deflate", zlib.compress(data))):
        raw = b"\x01" + len(packed).to_bytes(4, "big") + packed
        assert grpc.decode_message(raw, encoding) == data


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (b"", ""),
        (b"\0\0\0\0\x05abc", ""),
        (b"\0\0\0\0\x01ab", ""),
        (b"\x01\0\0\0\x01a", "gzip"),
        (b"\x01\0\0\0\x01a", "snappy"),
        (b"\x01\0\0\0\x01a", ""),
    ],
)
def test_bodies_that_cannot_be_read(raw: bytes, encoding: str) -> None:
    with pytest.raises(grpc.Undecodable):
        grpc.decode_message(raw, encoding)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2H", 7200), ("3M", 180), ("10S", 10), ("1500m", 1.5), ("5u", 5e-6), ("7n", 7e-9)],
)
def test_timeouts(text: str, seconds: float) -> None:
    assert grpc.parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "5", "-1S", "1.5S", "123456789S", "5x", "٣S"])
def test_timeouts_that_are_none(text: str) -> None:
    assert grpc.parse_timeout(text) is None


@given(st.floats(0.001, 1e9))
def test_a_timeout_is_read_back(seconds: float) -> None:
    text = grpc.format_timeout(seconds).decode()
    read = grpc.parse_timeout(text)
    assert read is not None
    assert read == pytest.approx(min(seconds, 99_999_999), abs=1.001)
    assert len(text) <= 9


@given(st.sampled_from(list(StatusCode)[1:]), st.text(max_size=80), st.binary(max_size=40))
def test_an_error_is_read_back(code: StatusCode, text: str, details: bytes) -> None:
    # What cannot be UTF-8 cannot be said.
    text = text.encode(errors="replace").decode()
    block = grpc.trailers_block(RpcError(code, text, details))
    error = grpc.status_of(Decoder().decode(block))
    assert error is not None
    if details[:1] == b"\0":  # base64 never begins so, a raw value does
        assert error.details == details
    assert (error.code, error.message, error.details) == (code, text, details)


def test_status_of_ok_and_of_no_status() -> None:
    assert grpc.status_of([(b"grpc-status", b"0")]) is None
    error = grpc.status_of([(b":status", b"502")])
    assert error is not None
    assert error.code is StatusCode.UNKNOWN
    assert "502" in error.message
    strange = grpc.status_of([(b"grpc-status", b"99")])
    assert strange is not None
    assert strange.code == 99


@pytest.mark.parametrize(
    ("code", "status"),
    [(8, StatusCode.CANCELLED), (7, StatusCode.UNAVAILABLE), (2, StatusCode.INTERNAL)],
)
def test_resets(code: int, status: StatusCode) -> None:
    assert grpc.status_of_reset(code).code is status
    assert grpc.status_of_reset(0xDEAD).code is StatusCode.INTERNAL


def test_metadata_leaves_the_protocols_own_headers_out() -> None:
    headers = [
        (b":path", b"/x/Y"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"1S"),
        (b"user", b"a"),
        (b"blob-bin", b"AP8,_w"),
        (b"raw-bin", b"\0a,b"),
    ]
    got = grpc.metadata_of(headers)
    assert ("user", "a") in got
    assert ("blob-bin", b"\x00\xff") in got
    assert ("raw-bin", b"a,b") in got
    assert len(got) == 4


def test_a_message_with_half_a_character_can_be_sent() -> None:
    """A snapshot's manifest is JSON, whose texts may hold half of a surrogate pair."""
    block = grpc.trailers_block(RpcError(StatusCode.INTERNAL, "a\ud800b"))
    error = grpc.status_of(Decoder().decode(block))
    assert error is not None
    assert error.message == "a?b"
