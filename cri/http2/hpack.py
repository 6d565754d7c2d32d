"""Header blocks (HPACK, RFC 7541), by the library ``hpack``: as octets, within limits."""

from __future__ import annotations

from collections.abc import Iterable

import hpack

Headers = list[tuple[bytes, bytes]]

DEFAULT_TABLE_SIZE = 4096
"""Octets; both ends start with it (RFC 9113 section 6.5.2)."""

MAX_LIST = 128 * 1024
"""Octets of one block's headers; a call has some 300, and an error's text is the only long one.
Decoded, a block of single octets, each of which means the same long entry of the table, would be
thousands of times its size; and the library's time grows with the square of a block's."""


class HpackError(ValueError):
    """A header block that HPACK does not allow: the connection cannot go on."""


class Decoder:
    """Decodes the header blocks of one direction of a connection, in their order."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_LIST)

    def decode(self, block: bytes) -> Headers:
        """The headers of a complete block.

        Raises:
            HpackError: not a header block, one that refers to what the table has not, or one of
                more than :data:`MAX_LIST` octets.
        """
        if len(block) > MAX_LIST:
            raise HpackError(f"a header block of {len(block)} octets, at most {MAX_LIST} are taken")
        try:
            return [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.HPACKError as error:
            raise HpackError(f"{type(error).__name__}: {error}") from None


_ENCODER = hpack.Encoder()


def encode(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block that is valid at any point: it touches no dynamic table."""
    never = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in headers]
    return _ENCODER.encode(never, huffman=False)
