"""The protobuf wire format, without a schema.

CRIU's images are protobuf messages, and each release adds fields. A :class:`Message` keeps all
of them, in order and as they were encoded, so that what is not changed is written back byte for
byte. Source: the protocol buffers encoding specification; proto2, as CRIU uses it.
"""

from __future__ import annotations

from shim.errors import Broken

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types. The two of groups (3 and 4) are obsolete and in no image of CRIU."""

_FIXED = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT = 10  # bytes: 64 bits, seven in each
_MAX_FIELD = (1 << 29) - 1


class Field:
    """One field as it stands in a message; not to be changed."""

    __slots__ = ("number", "raw", "value", "wire_type")

    def __init__(self, number: int, wire_type: int, value: int | bytes, raw: bytes) -> None:
        self.number = number
        self.wire_type = wire_type
        self.value = value
        """An unsigned integer for VARINT, else the bytes (for BYTES, without their length)."""
        self.raw = raw
        """The whole field as it was encoded, tag and all."""

    def __repr__(self) -> str:
        return f"Field({self.number}, {self.wire_type}, {self.value!r})"


class Message:
    """An ordered list of fields; reading a field that is absent gives its default."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        self._fields = list(fields)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Decode a message; Broken when the bytes are none."""
        return cls(_parse(data))

    def encode(self) -> bytes:
        """The message as bytes; those parsed, while nothing was set."""
        return b"".join(field.raw for field in self._fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields)

    def __contains__(self, number: int) -> bool:
        return any(field.number == number for field in self._fields)

    def uint(self, number: int, default: int = 0) -> int:
        """An integer, bool or enum field: the last one, as protobuf wants."""
        return next(reversed(self.uints(number)), default)

    def uints(self, number: int) -> list[int]:
        """A repeated integer field, packed or not."""
        values: list[int] = []
        for field in self._fields:
            if field.number != number:
                continue
            if isinstance(field.value, int):
                values.append(field.value)
            elif field.wire_type == BYTES:
                values += _packed(field.value)
            else:
                raise Broken(f"field {number} of a CRIU image has the wrong type")
        return values

    def blob(self, number: int, default: bytes = b"") -> bytes:
        """A bytes, string or message field: the last one."""
        for field in reversed(self._fields):
            if field.number == number:
                if field.wire_type != BYTES or isinstance(field.value, int):
                    raise Broken(f"field {number} of a CRIU image has the wrong type")
                return field.value
        return default

    def text(self, number: int, default: str = "") -> str:
        """A string field; bytes that are not UTF-8 are kept as surrogates."""
        return self.blob(number, default.encode()).decode(errors="surrogateescape")

    def message(self, number: int) -> Message:
        """A copy of an embedded message; empty when absent. Write it back with ``set_message``."""
        return Message.parse(self.blob(number))

    def set_uint(self, number: int, value: int) -> None:
        """Replace an integer field where it stands, or append it."""
        self._replace(number, [_varint_field(number, value)])

    def set_uints(self, number: int, values: Iterable[int]) -> None:
        """Replace a repeated integer field where it begins, or append it (not packed: proto2)."""
        self._replace(number, [_varint_field(number, value) for value in values])

    def set_bytes(self, number: int, value: bytes) -> None:
        """Replace a bytes or string field where it stands, or append it."""
        raw = _varint(number << 3 | BYTES) + _varint(len(value)) + value
        self._replace(number, [Field(number, BYTES, value, raw)])

    def set_message(self, number: int, value: Message) -> None:
        """Replace an embedded message where it stands, or append it."""
        self.set_bytes(number, value.encode())

    def remove(self, number: int) -> None:
        """Drop every occurrence of a field."""
        self._replace(number, [])

    def _replace(self, number: int, new: list[Field]) -> None:
        at = next(
            (index for index, field in enumerate(self._fields) if field.number == number),
            len(self._fields),
        )
        kept = [field for field in self._fields if field.number != number]
        self._fields = kept[:at] + new + kept[at:]


def _parse(data: bytes) -> Iterator[Field]:
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number <= _MAX_FIELD:
            raise Broken(f"a message of a CRIU image has a field with the number {number}")
        value: int | bytes
        if wire_type == VARINT:
            value, at = _read_varint(data, at)
        else:
            if wire_type == BYTES:
                length, at = _read_varint(data, at)
            elif wire_type in _FIXED:
                length = _FIXED[wire_type]
            else:
                raise Broken(f"a message of a CRIU image has a field of wire type {wire_type}")
            value = data[at : at + length]
            at += length
        if at > len(data):
            raise Broken("a message of a CRIU image ends inside a field")
        yield Field(number, wire_type, value, data[start:at])


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _read_varint(data, at)
        yield value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + _MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (1 << 64) - 1, at + index + 1
    raise Broken("a message of a CRIU image has a number that does not end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_field(number: int, value: int) -> Field:
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{value} is no unsigned number of 64 bits")
    return Field(number, VARINT, value, _varint(number << 3 | VARINT) + _varint(value))
