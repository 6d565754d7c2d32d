from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.http2.hpack import Decoder, HpackError, encode, huffman_decode

headers = st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=8)

# RFC 7541 appendix C: the blocks of C.3 and C.4 (requests) and C.6 (responses, table of 256).
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


def test_the_responses_of_the_rfc_with_eviction() -> None:
    decoder = Decoder(256)
    first = decoder.decode(
        bytes.fromhex(
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff"
            "6e919d29ad171863c78f0b97c8e9ae82ae43d3"
        )
    )
    assert first == [
        (b":status", b"302"),
        (b"cache-control", b"private"),
        (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
        (b"location", b"https://www.example.com"),
    ]
    second = decoder.decode(bytes.fromhex("4883640effc1c0bf"))
    assert second == [(b":status", b"307"), *first[1:]]
    third = decoder.decode(
        bytes.fromhex(
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6"
            "c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
        )
    )
    assert third[-1] == (
        b"set-cookie",
        b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    )
    assert third[0] == (b":status", b"200")


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
    ("block", "what"),
    [
        ("80", "index 0"),
        ("be", "beyond the table"),
        ("3fe2ff03", "above the agreed"),
        ("0005616263", "longer than"),
        ("3fffffffffff7f", "too large"),
        ("00", "too early"),
    ],
)
def test_blocks_that_are_refused(block: str, what: str) -> None:
    with pytest.raises(HpackError, match=what):
        Decoder().decode(bytes.fromhex(block))


def test_huffman_strings_that_are_refused() -> None:
    with pytest.raises(HpackError, match="end-of-string"):
        huffman_decode(b"\xff\xff\xff\xff")
    with pytest.raises(HpackError, match="padding"):
        huffman_decode(b"\x00")  # "0" and three zero bits
    with pytest.raises(HpackError, match="padding"):
        huffman_decode(b"\x07\xff")  # "0" and eleven bits


def test_a_table_size_of_zero_empties_the_table() -> None:
    decoder = Decoder()
    decoder.decode(bytes.fromhex("828684410f7777772e6578616d706c652e636f6d"))
    decoder.decode(b"\x20")
    with pytest.raises(HpackError, match="beyond"):
        decoder.decode(b"\xbe")
