"""HPACK, RFC 7541: a decoder with its dynamic table, and an encoder that needs none."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

Headers = list[tuple[bytes, bytes]]

DEFAULT_TABLE_SIZE = 4096
"""Octets; both ends start with it (RFC 9113 section 6.5.2)."""

_ENTRY_OVERHEAD = 32  # RFC 7541 section 4.1

MAX_LIST = 16 * 1024 * 1024
"""Octets of one block's headers, decoded: what gRPC's Go server takes. A block of single octets,
each of which means the same long entry of the table, would be thousands of times its size."""

_CACHED = 128
"""Octets of a Huffman-coded string up to which its decoded form is kept."""

# RFC 7541 appendix A. One line an entry; name and value are separated by a space.
_STATIC: Headers = [
    (name.encode(), value.encode())
    for name, _, value in (
        line.partition(" ")
        for line in """\
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate""".splitlines()
    )
]

# RFC 7541 appendix B. The code is canonical, so the lengths say it all: one letter a symbol,
# "A" for 5 bits and so on; the last symbol is the end of the string.
_CODE_LENGTHS = (
    "ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCCCCCCCCCCCCCCCCCCDCDIOI"
    "JBKABABABBBACCBBBABCBAABCCCCCKGJIXPRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRR"
    "SRRSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWVZ"
)
_END_OF_STRING = 256

# A node is a pair of what a 0 bit and what a 1 bit leads to: another node, or a symbol.
_Node = list["_Node | int"]


class HpackError(ValueError):
    """A header block that HPACK does not allow: the connection cannot go on."""


def _huffman_tree() -> _Node:
    root: _Node = []
    code = length = 0
    for bits, symbol in sorted((ord(c) - ord("A") + 5, i) for i, c in enumerate(_CODE_LENGTHS)):
        code <<= bits - length
        length = bits
        node = root
        for shift in range(bits - 1, -1, -1):
            if not node:
                node += [[], []]
            bit = code >> shift & 1
            if shift == 0:
                node[bit] = symbol
            else:
                child = node[bit]
                assert isinstance(child, list)  # noqa: S101  # codes are prefix-free
                node = child
        code += 1
    return root


_TREE = _huffman_tree()


def huffman_decode(data: bytes) -> bytes:
    """Decodes a Huffman-coded string literal.

    Raises:
        HpackError: the end-of-string symbol occurs, or the padding is not its first bits.
    """
    return _short_huffman(data) if len(data) <= _CACHED else _huffman(data)


@lru_cache(maxsize=512)  # header values repeat: all but the deadline
def _short_huffman(data: bytes) -> bytes:
    return _huffman(data)


def _huffman(data: bytes) -> bytes:
    out = bytearray()
    node = _TREE
    depth, ones = 0, True
    for byte in data:
        for shift in (7, 6, 5, 4, 3, 2, 1, 0):
            bit = byte >> shift & 1
            step = node[bit]
            depth += 1
            ones = ones and bit == 1
            if isinstance(step, int):
                if step == _END_OF_STRING:
                    raise HpackError("end-of-string symbol inside a string")
                out.append(step)
                node, depth, ones = _TREE, 0, True
            else:
                node = step
    if depth > 7 or not ones:
        raise HpackError("wrong padding after a Huffman-coded string")
    return bytes(out)


def _integer(data: bytes, position: int, prefix_bits: int) -> tuple[int, int]:
    """RFC 7541 section 5.1: the value, and the position after it."""
    limit = (1 << prefix_bits) - 1
    value = data[position] & limit
    position += 1
    if value < limit:
        return value, position
    shift = 0
    while True:
        byte = data[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise HpackError("integer too large")


def _string(data: bytes, position: int) -> tuple[bytes, int]:
    huffman = data[position] & 0x80
    length, position = _integer(data, position, 7)
    end = position + length
    if end > len(data):
        raise HpackError("string longer than its header block")
    raw = data[position:end]
    return (huffman_decode(raw) if huffman else raw), end


class Decoder:
    """Decodes the header blocks of one direction of a connection, in their order."""

    def __init__(self, max_table_size: int = DEFAULT_TABLE_SIZE) -> None:
        self._allowed = self._limit = max_table_size
        self._table: Headers = []  # newest first
        self._size = 0

    def decode(self, block: bytes) -> Headers:
        """The headers of a complete block.

        Raises:
            HpackError: not a header block, or one that refers to what the table has not.
        """
        try:
            return self._decode(block)
        except IndexError:
            raise HpackError("header block ends too early") from None

    def _decode(self, block: bytes) -> Headers:
        headers: Headers = []
        position = total = 0
        while position < len(block):
            first = block[position]
            if first & 0x80:  # indexed
                index, position = _integer(block, position, 7)
                header = self._entry(index)
            elif first & 0x40:  # literal, to be indexed
                header, position = self._literal(block, position, 6)
                self._add(header)
            elif first & 0x20:  # table size update
                size, position = _integer(block, position, 5)
                if size > self._allowed:
                    raise HpackError(f"table size {size} above the agreed {self._allowed}")
                self._limit = size
                self._evict()
                continue
            else:  # literal, not to be indexed
                header, position = self._literal(block, position, 4)
            headers.append(header)
            total += len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD
            if total > MAX_LIST:
                raise HpackError(f"headers of more than {MAX_LIST} octets")
        return headers

    def _literal(self, block: bytes, position: int, bits: int) -> tuple[tuple[bytes, bytes], int]:
        index, position = _integer(block, position, bits)
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        return (name, value), position

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if index == 0:
            raise HpackError("index 0")
        if index <= len(_STATIC):
            return _STATIC[index - 1]
        try:
            return self._table[index - len(_STATIC) - 1]
        except IndexError:
            raise HpackError(f"index {index} beyond the table") from None

    def _add(self, header: tuple[bytes, bytes]) -> None:
        self._table.insert(0, header)
        self._size += len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD


def _encode_length(length: int) -> bytes:
    if length < 0x7F:
        return bytes([length])
    out = bytearray([0x7F])
    length -= 0x7F
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)


def encode(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block of plain literals, valid at any point: it touches no dynamic table."""
    parts: list[bytes] = []
    for name, value in headers:
        parts += (b"\x00", _encode_length(len(name)), name, _encode_length(len(value)), value)
    return b"".join(parts)
