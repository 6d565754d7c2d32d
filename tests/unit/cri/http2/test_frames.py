from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.http2 import frames


@given(st.integers(0, 9), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=99))
def test_a_frame_is_found_again(kind: int, flags: int, stream: int, payload: bytes) -> None:
    raw = frames.frame(kind, flags, stream, payload)
    if kind == frames.HEADERS:
        return  # see below
    for cut in range(len(raw)):
        assert frames.next_frame(raw[:cut], 0) is None
    found = frames.next_frame(b"xx" + raw + b"more", 2)
    assert found is not None
    assert found[:3] == (kind, flags, stream)
    assert (b"xx" + raw)[found.start : found.end] == payload


@given(st.binary(min_size=1, max_size=50_000), st.booleans())
def test_a_header_block_over_several_frames_is_one(block: bytes, end_stream: bool) -> None:  # noqa: FBT001
    raw = frames.headers(7, block, end_stream=end_stream)
    assert frames.next_frame(raw[:-1], 0) is None
    found = frames.next_frame(raw, 0)
    assert found is not None
    assert found.block == block
    assert found.end == len(raw)
    assert bool(found.flags & frames.END_STREAM) is end_stream


def test_another_frame_within_a_header_block_is_refused() -> None:
    raw = frames.frame(frames.HEADERS, 0, 1, b"ab") + frames.frame(frames.PING, 0, 0, bytes(8))
    with pytest.raises(frames.FrameError, match="CONTINUATION"):
        frames.next_frame(raw, 0)


def test_an_endless_header_block_is_refused() -> None:
    piece = frames.frame(frames.CONTINUATION, 0, 1, bytes(16_000))
    raw = frames.frame(frames.HEADERS, 0, 1, b"") + piece * 80
    with pytest.raises(frames.FrameError, match="header block above"):
        frames.next_frame(raw, 0)


def test_padding_and_priority_are_taken_off() -> None:
    assert frames.unpad(frames.PADDED, b"\x03abc\0\0\0") == b"abc"
    assert frames.header_block(frames.PADDED | frames.PRIORITY, b"\x01pppppblock\0") == b"block"
    for payload in (b"", b"\x05abc"):
        with pytest.raises(frames.FrameError):
            frames.unpad(frames.PADDED, payload)


@given(st.dictionaries(st.integers(0, 65535), st.integers(0, 2**32 - 1), max_size=8))
def test_settings_are_found_again(values: dict[int, int]) -> None:
    raw = frames.settings(values)
    assert frames.parse_settings(raw[frames.HEAD :]) == values


def test_settings_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(frames.FrameError, match="multiple of 6"):
        frames.parse_settings(b"12345")
