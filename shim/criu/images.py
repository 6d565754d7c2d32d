"""CRIU's image files: magic numbers, then entries of a protobuf message and, for some, data.

    file   = [common magic] magic entry*       inventory.img has only its own magic
    entry  = length message [data]             numbers are 32 bits, little-endian

How long the data is, the message before it says. Raw images (pages-N.img, tar archives of
tmpfs, iptables dumps) are not of this format. Source: criu/include/magic.h, criu/protobuf.c,
criu/image.c and the writers of each type in CRIU 4.2.
"""

from __future__ import annotations

import struct

from shim.criu.wire import Message
from shim.errors import Broken
from shim.record import record

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable

COMMON_MAGIC = 0x54564319
SERVICE_MAGIC = 0x55105940
INVENTORY = 0x58313116
FILES = 0x56303138
PSTREE = 0x50273030
IDS = 0x54432030
FDINFO = 0x56213732
MM = 0x57492820
PAGEMAP = 0x56084025
MOUNTPOINTS = 0x55563928
TCP_STREAM = 0x51465506
UTSNS = 0x54473203
GHOST_FILE = 0x52583605
PIPES_DATA = 0x56453709
FIFO_DATA = 0x59333054
SK_QUEUES = 0x56264026
IPCNS_SHM = 0x46283044
IPCNS_MSG = 0x55453737
IPCNS_SEM = 0x59573019
BPFMAP_DATA = 0x64324033

_PLAIN = {
    PSTREE: "pstree",
    FDINFO: "fdinfo",
    PAGEMAP: "pagemap",
    0x55053847: "core",
    IDS: "ids",
    0x54123737: "vmas",
    0x56513555: "pipes",
    0x58364939: "fifo",
    0x55344201: "sigacts",
    0x54373943: "unixsk",
    0x56443851: "inetsk",
    0x60454618: "packetsk",
    0x57464056: "itimers",
    0x52603957: "posix-timers",
    0x54023547: "creds",
    0x53115007: "ipcns-var",
    0x50363636: "reg-files",
    0x59255641: "ext-files",
    0x51403912: "fs",
    MM: "mm",
    0x59133954: "remap-fpath",
    0x44523722: "eventfd",
    0x45023858: "eventpoll",
    0x44433746: "eventpoll-tfd",
    0x57323820: "signalfd",
    0x48424431: "inotify",
    0x54562009: "inotify-wd",
    MOUNTPOINTS: "mountpoints",
    0x57373951: "netdev",
    0x55933752: "netns",
    0x59433025: "tty",
    0x59453036: "tty-info",
    0x59413026: "tty-data",
    0x54323616: "filelocks",
    0x57113925: "rlimit",
    0x55096122: "fanotify",
    0x56506035: "fanotify-mark",
    0x59255647: "signal",
    0x58005614: "netlinksk",
    0x61394011: "ns-files",
    0x57143751: "tunfile",
    0x59383330: "cgroup",
    0x50493712: "timerfd",
    0x61404013: "cpuinfo",
    0x55474906: "userns",
    0x64413049: "seccomp",
    0x67343323: "binfmt-misc",
    0x49353943: "autofs",
    0x48453499: "memfd",
    0x43114433: "timens",
    0x61157326: "pidns",
    0x57506142: "bpfmap-file",
    0x59423047: "apparmor",
    0x54435556: "pidfd",
    0x57093306: "stats",
    0x57004059: "irmap-cache",
    INVENTORY: "inventory",
    FILES: "files",
    UTSNS: "utsns",
}
"""Types whose entries are a message and nothing else."""

_WITH_DATA = {
    TCP_STREAM: "tcp-stream",
    GHOST_FILE: "ghost-file",
    PIPES_DATA: "pipes-data",
    FIFO_DATA: "fifo-data",
    SK_QUEUES: "sk-queues",
    IPCNS_SHM: "ipcns-shm",
    IPCNS_MSG: "ipcns-msg",
    IPCNS_SEM: "ipcns-sem",
    BPFMAP_DATA: "bpfmap-data",
}

NAMES = {**_PLAIN, **_WITH_DATA}
"""Magic number → name of the type, which is how its files are called."""

_NUMBER = struct.Struct("<I")


@record()
class Entry:
    """One entry of an image."""

    message: bytes
    """The protobuf message, encoded; see :class:`shim.criu.wire.Message`."""
    data: bytes = b""
    """What follows it; empty for most types."""


@record()
class Image:
    """A decoded image file."""

    header: bytes
    """The magic numbers as they stand in the file."""
    magic: int
    """The type's own magic number."""
    entries: list[Entry]


def decode(data: bytes, name: str) -> Image:
    """Take an image file apart; ``name`` is for messages. Raises Broken."""
    magic, header = magic_of(data, name)
    entries: list[Entry] = []
    at = len(header)
    while at < len(data):
        message, after = _block(data, at, name)
        try:
            end = after + _data_length(
                magic, Message.parse(message), data, after, first=not entries
            )
        except Broken as error:
            raise Broken(f"{name} is damaged: {error}") from error
        if end > len(data):
            raise Broken(
                f"{name} is truncated: wanted at least {end} bytes, found {len(data)} bytes"
            )
        entries.append(Entry(message, data[after:end]))
        at = end
    return Image(header, magic, entries)


def encode(image: Image) -> bytes:
    """Put an image file together again."""
    parts = [image.header]
    for entry in image.entries:
        parts += [_NUMBER.pack(len(entry.message)), entry.message, entry.data]
    return b"".join(parts)


def magic_of(data: bytes, name: str) -> tuple[int, bytes]:
    """The type's magic number of an image file, and the header up to its end. Raises Broken."""
    if len(data) < _NUMBER.size:
        raise Broken(f"{name} is truncated: wanted at least 4 bytes, found {len(data)} bytes")
    size = _NUMBER.size
    (magic,) = _NUMBER.unpack_from(data)
    if magic in (COMMON_MAGIC, SERVICE_MAGIC):
        size *= 2
        if len(data) < size:
            raise Broken(f"{name} is truncated: wanted at least 8 bytes, found {len(data)} bytes")
        (magic,) = _NUMBER.unpack_from(data, _NUMBER.size)
    if magic not in NAMES:
        raise Broken(f"{name} is no CRIU image of a known type: its magic number is {magic:#010x}")
    return magic, data[:size]


def _block(data: bytes, at: int, name: str) -> tuple[bytes, int]:
    """The length-prefixed message at ``at`` and the offset after it."""
    start = at + _NUMBER.size
    if start > len(data):
        raise Broken(f"{name} is truncated: wanted {start} bytes or more, found {len(data)} bytes")
    (length,) = _NUMBER.unpack_from(data, at)
    end = start + length
    if end > len(data):
        raise Broken(f"{name} is truncated: wanted at least {end} bytes, found {len(data)} bytes")
    return data[start:end], end


def _data_length(magic: int, message: Message, data: bytes, at: int, *, first: bool) -> int:
    """Bytes that belong to ``message`` and follow it, from offset ``at`` of the file on."""
    if magic == GHOST_FILE:
        return _ghost_length(message, len(data) - at, first=first)
    if magic == IPCNS_MSG:
        return _queue_length(message, data, at)
    simple = _SIMPLE.get(magic)
    return simple(message) if simple else 0


def _ghost_length(message: Message, rest: int, *, first: bool) -> int:
    """A ghost file is its entry and the content, or its entry and chunks with theirs."""
    if not first:
        return message.uint(1)
    has_chunks = message.uint(9)
    return 0 if has_chunks else rest


def _queue_length(message: Message, data: bytes, at: int) -> int:
    """A System V message queue: each message has a small header of its own."""
    start = at
    for _ in range(message.uint(3)):
        header, at = _block(data, at, "its message queue")
        at += _round_up(Message.parse(header).uint(2), 8)
    return at - start


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _shm_length(message: Message) -> int:
    # Since CRIU 3.9 the content is in pagemap-shmem images.
    in_pagemaps = message.uint(3)
    return 0 if in_pagemaps else _round_up(message.uint(2), 4)


_SIMPLE: dict[int, Callable[[Message], int]] = {
    TCP_STREAM: lambda message: message.uint(1) + message.uint(3),
    PIPES_DATA: lambda message: message.uint(2),
    FIFO_DATA: lambda message: message.uint(2),
    SK_QUEUES: lambda message: message.uint(2),
    IPCNS_SHM: _shm_length,
    IPCNS_SEM: lambda message: _round_up(2 * message.uint(2), 8),
    BPFMAP_DATA: lambda message: message.uint(2) + message.uint(3),
}
