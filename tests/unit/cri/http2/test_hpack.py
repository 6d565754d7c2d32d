from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.http2.hpack import MAX_LIST, Decoder, HpackError, encode

headers = st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=8)

# RFC 7541 appendix C: the blocks of C.3 and C.4.
REQUEST_1 = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"www.example.com"),
]
REQUEST_2 = [*REQUEST_1, (b"cache-control", b"no-cache")]
REQUEST_3 = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/index.html"),
    (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]


@pytest.mark.parametrize(
    "blocks",
    [
        (
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ),
        (
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ),
    ],
    ids=["plain", "huffman"],
)
def test_the_requests_of_the_rfc(blocks: tuple[str, str, str]) -> None:
    decoder = Decoder()
    got = [decoder.decode(bytes.fromhex(block)) for block in blocks]
    assert got == [REQUEST_1, REQUEST_2, REQUEST_3]


@given(headers)
def test_what_is_encoded_is_decoded_at_any_point(items: list[tuple[bytes, bytes]]) -> None:
    decoder = Decoder()
    decoder.decode(bytes.fromhex("828684410f7777772e6578616d706c652e636f6d"))
    assert decoder.decode(encode(items)) == items
    assert decoder.decode(b"\xbe") == [(b":authority", b"www.example.com")]  # table untouched


@given(st.binary(max_size=200))
def test_any_octets_are_decoded_or_refused(block: bytes) -> None:
    with suppress(HpackError):
        assert isinstance(Decoder().decode(block), list)


@pytest.mark.parametrize(
    "block",
    [
        "80",  # index 0
        "be",  # beyond the table
        "3fe2ff03",  # a table larger than agreed
        "0005616263",  # a string longer than its block
        "3fffffffffff7f",  # an integer too large
        "00",  # too short
        "000084ffffffff",  # Huffman's end of string inside one
        "00008100",  # padding of zeros
        "00008207ff",  # padding of more than seven bits
    ],
)
def test_blocks_that_are_refused(block: str) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(bytes.fromhex(block))


def test_more_headers_than_a_call_can_have_are_refused_at_once() -> None:
    entry = b"\x40\x01n\x7f\x81\x1e" + b"v" * 3968
    bomb = entry + b"\xbe" * 100
    with pytest.raises(HpackError, match="larger than"):
        Decoder().decode(bomb)
    slow = b"\0\0\0" * (MAX_LIST // 3 + 1)
    with pytest.raises(HpackError, match="at most"):
        Decoder().decode(slow)
    began = time.process_time()
    with pytest.raises(HpackError, match="larger than"):
        Decoder().decode(slow[:MAX_LIST])
    assert time.process_time() - began < 2


def test_a_table_size_of_zero_empties_the_table() -> None:
    decoder = Decoder()
    decoder.decode(bytes.fromhex("828684410f7777772e6578616d706c652e636f6d"))
    decoder.decode(b"\x20")
    with pytest.raises(HpackError):
        decoder.decode(b"\xbe")
