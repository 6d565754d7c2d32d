from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.criu.wire import BYTES, VARINT, Message
from shim.errors import Broken

numbers = st.integers(1, (1 << 29) - 1)
values = st.integers(0, (1 << 64) - 1)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    message = Message()
    for number in draw(st.lists(numbers, max_size=6, unique=True)):
        if draw(st.booleans()):
            message.set_uints(number, draw(st.lists(values, max_size=3)))
        else:
            message.set_bytes(number, draw(st.binary(max_size=20)))
    return message


@given(messages())
def test_parsing_and_encoding_gives_the_same_bytes(message: Message) -> None:
    data = message.encode()
    assert Message.parse(data).encode() == data


@given(st.binary(max_size=64))
def test_any_bytes_are_kept_exactly_or_are_broken(data: bytes) -> None:
    try:
        message = Message.parse(data)
    except Broken:
        return
    assert message.encode() == data


def test_a_number_encoded_longer_than_needed_stays_as_it_was() -> None:
    data = bytes([1 << 3 | VARINT, 0x85, 0x00])
    message = Message.parse(data)
    assert message.uint(1) == 5
    assert message.encode() == data


@given(messages(), numbers, values)
def test_what_is_set_is_read_and_the_rest_stays_in_order(
    message: Message, number: int, value: int
) -> None:
    others = [field.raw for field in message if field.number != number]
    message.set_uint(number, value)
    again = Message.parse(message.encode())
    assert again.uint(number) == value
    assert [field.raw for field in again if field.number != number] == others


def test_a_field_is_replaced_where_it_stands() -> None:
    message = Message()
    for number in (1, 2, 3):
        message.set_uint(number, number)
    message.set_bytes(2, b"new")
    assert [field.number for field in message] == [1, 2, 3]
    assert message.blob(2) == b"new"


def test_repeated_numbers_are_read_packed_and_unpacked() -> None:
    unpacked = Message()
    unpacked.set_uints(11, [1, 300, 1 << 32])
    packed = Message()
    packed.set_bytes(11, bytes([1, 0xAC, 0x02, 0x80, 0x80, 0x80, 0x80, 0x10]))
    assert unpacked.uints(11) == packed.uints(11) == [1, 300, 1 << 32]


def test_the_last_of_a_repeated_field_counts() -> None:
    message = Message()
    message.set_uints(1, [4, 5])
    assert message.uint(1) == 5


def test_an_absent_field_gives_the_default() -> None:
    message = Message()
    assert message.uint(1) == 0
    assert message.uint(1, 7) == 7
    assert message.text(1, "x") == "x"
    assert message.message(1).encode() == b""
    assert 1 not in message


def test_fixed_width_fields_survive() -> None:
    data = bytes([1 << 3 | 1, *range(8), 2 << 3 | 5, *range(4)])
    message = Message.parse(data)
    message.set_uint(9, 1)
    assert message.encode() == data + bytes([9 << 3, 1])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x08", "does not end"),
        (b"\x08" + b"\x80" * 11, "does not end"),
        (b"\x0a\x05ab", "ends inside"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x00", "number 0"),
        (b"\x09abc", "ends inside"),
    ],
)
def test_what_is_no_message_is_broken(data: bytes, what: str) -> None:
    with pytest.raises(Broken, match=what):
        Message.parse(data)


def test_a_field_of_the_wrong_type_is_broken() -> None:
    message = Message()
    message.set_uint(1, 1)
    with pytest.raises(Broken, match="wrong type"):
        message.blob(1)
    with pytest.raises(Broken, match="wrong type"):
        Message.parse(bytes([1 << 3 | 5, *range(4)])).uint(1)


def test_only_unsigned_numbers_of_64_bits_can_be_set() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        Message().set_uint(1, -1)
    with pytest.raises(ValueError, match="64 bits"):
        Message().set_uint(1, 1 << 64)


def test_text_that_is_not_utf8_comes_back_unchanged() -> None:
    message = Message.parse(bytes([1 << 3 | BYTES, 2, 0xFF, 0x41]))
    assert message.text(1).encode(errors="surrogateescape") == b"\xffA"
