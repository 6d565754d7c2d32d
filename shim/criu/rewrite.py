"""Changes to CRIU's images for one restore: another pod has another address and another name.

Pure: the bytes of an image in, the bytes of the image to restore out. Nothing is decoded that is
not changed. Field numbers: images/fdinfo.proto, sk-inet.proto, utsns.proto and inventory.proto
of CRIU 4.2; how a restore reads them: criu/sk-inet.c, criu/image.c, criu/uts_ns.c.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken, Unfit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# file_entry
_FILE_TYPE, _FILE_ISK = 1, 4
_TYPE_INETSK = 4
_FILE_TFD = 12
_TYPE_TIMERFD = 17
# timerfd_entry
_VALUE, _INTERVAL = (7, 8), (9, 10)
"""Seconds and nanoseconds, until the next expiry and between expiries."""
# inet_sk_entry
_PROTO, _SOCK_TYPE, _STATE, _SRC_PORT, _DST_PORT = 5, 4, 6, 7, 8
_FAMILY, _SRC_ADDR, _DST_ADDR, _NS, _SHUTDOWN = 3, 11, 12, 18, 19
_AF_INET, _AF_INET6 = 2, 10
_SOCK_STREAM, _IPPROTO_TCP = 1, 6
# States of include/net/tcp_states.h.
_TCP_CLOSE = 7
_CONNECTED = frozenset({1, 4, 5, 8, 9, 11})
"""ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING: both ends have met."""
# inventory_entry, enum NETWORK_LOCK_METHOD
_LOCK_METHOD, _LOCK_SKIP = 11, 2
# utsns_entry
_NODENAME = 1

_WORD = struct.Struct("=I")  # CRIU copies an address into numbers of the machine's byte order


@dataclass(frozen=True, kw_only=True)
class Sockets:
    """What :func:`files` did to the internet sockets."""

    kept: int = 0
    """Sockets that are restored, with their address changed or not."""
    moved: int = 0
    """Of those kept, how many had an address of the old pod."""
    closed: int = 0
    """Connections that the restored process finds closed."""


@dataclass(frozen=True)
class _End:
    """One end of a connection, comparable across IPv4 and mapped IPv6."""

    namespace: int
    source: Address
    source_port: int
    peer: Address
    peer_port: int

    def other(self) -> _End:
        return _End(self.namespace, self.peer, self.peer_port, self.source, self.source_port)


def files(
    data: bytes,
    *,
    old: Sequence[str],
    new: Sequence[str],
    tcp: Literal["close", "established"] = "close",
    name: str = "files.img",
) -> tuple[bytes, Sockets]:
    """Move the sockets of ``files.img`` from the old pod's addresses to the new pod's.

    Timers that CRIU would leave dead are set going again (:func:`_rearm`).

    With ``tcp`` ``close``, a TCP connection is kept only when both its ends are in the image:
    the others would speak for an address that is no longer ours, or to another container that
    does not know them. A closed one becomes a socket that was never connected: CRIU neither
    binds nor connects it, poll reports a hang-up, reading and writing fail with ENOTCONN.

    Raises Broken for a damaged image, and Unfit when a socket is bound to an address whose
    family the new pod does not have.
    """
    image = images.decode(data, name)
    if image.magic != images.FILES:
        raise Broken(f"{name} is not the list of open files: it holds {images.NAMES[image.magic]}")
    for entry in image.entries:
        _rearm(entry)
    moves = _moves(old, new)
    sockets = [(entry, *file) for entry in image.entries if (file := _inet_socket(entry, name))]
    ends = {end for _, _, socket in sockets if (end := _connected_end(socket, name))}
    kept = moved = closed = 0
    for entry, file_entry, socket in sockets:
        if tcp == "close" and _is_connection(socket) and not _has_both(socket, ends, name):
            _close(socket)
            closed += 1
        else:
            kept += 1
            if not _move(socket, moves, name):
                continue
            moved += 1
        file_entry.set_message(_FILE_ISK, socket)
        entry.message = file_entry.encode()
    return images.encode(image), Sockets(kept=kept, moved=moved, closed=closed)


def utsns(data: bytes, hostname: str, name: str = "utsns.img") -> bytes:
    """Put the new pod's host name into an image of a UTS namespace. Raises Broken."""
    return _set_in_only_entry(
        data, images.UTSNS, name, lambda message: message.set_bytes(_NODENAME, hostname.encode())
    )


def inventory(data: bytes, name: str = "inventory.img") -> bytes:
    """Let CRIU not lock the network at restore: the new pod's has no rules of ours to undo.

    CRIU takes the method from the image and would run iptables, which a node need not have.
    Raises Broken.
    """
    return _set_in_only_entry(
        data, images.INVENTORY, name, lambda message: message.set_uint(_LOCK_METHOD, _LOCK_SKIP)
    )


def _set_in_only_entry(
    data: bytes, magic: int, name: str, change: Callable[[Message], None]
) -> bytes:
    image = images.decode(data, name)
    if image.magic != magic or len(image.entries) != 1:
        raise Broken(
            f"{name} should hold one entry of type {images.NAMES[magic]}, "
            f"found {len(image.entries)} of type {images.NAMES[image.magic]}"
        )
    message = Message.parse(image.entries[0].message)
    change(message)
    image.entries[0].message = message.encode()
    return images.encode(image)


def _rearm(entry: images.Entry) -> None:
    """Let a periodic timerfd go on that had expired and was not read yet.

    The kernel arms such a timer again only when it is read, and shows no time left for it. CRIU
    sets just that time, and none means a timer that is off (criu/timerfd.c). One interval from
    now is when the next expiry is due at the latest.
    """
    file = Message.parse(entry.message)
    if file.uint(_FILE_TYPE) != _TYPE_TIMERFD or _FILE_TFD not in file:
        return
    timer = file.message(_FILE_TFD)
    interval = [timer.uint(field) for field in _INTERVAL]
    if any(timer.uint(field) for field in _VALUE) or not any(interval):
        return
    for field, value in zip(_VALUE, interval, strict=True):
        timer.set_uint(field, value)
    file.set_message(_FILE_TFD, timer)
    entry.message = file.encode()


def _moves(old: Iterable[str], new: Iterable[str]) -> Mapping[Address, Address | None]:
    """Old address → new address of the same family, in order; None where there is none left."""
    pool: dict[int, list[Address]] = {4: [], 6: []}
    for text in new:
        address = ipaddress.ip_address(text)
        pool[address.version].append(address)
    moves: dict[Address, Address | None] = {}
    for text in old:
        address = ipaddress.ip_address(text)
        candidates = pool[address.version]
        moves[address] = candidates.pop(0) if candidates else None
    return moves


def _inet_socket(entry: images.Entry, name: str) -> tuple[Message, Message] | None:
    """The file entry and its inet socket, both to be changed, when it is one."""
    file = Message.parse(entry.message)
    if file.uint(_FILE_TYPE) != _TYPE_INETSK:
        return None
    if _FILE_ISK not in file:
        raise Broken(f"{name} is damaged: a socket in it has no description")
    return file, file.message(_FILE_ISK)


def _is_connection(socket: Message) -> bool:
    """As CRIU has it: TCP with a peer port; and no raw socket."""
    return (
        socket.uint(_PROTO) == _IPPROTO_TCP
        and socket.uint(_SOCK_TYPE) == _SOCK_STREAM
        and socket.uint(_DST_PORT) != 0
    )


def _connected_end(socket: Message, name: str) -> _End | None:
    if not _is_connection(socket) or socket.uint(_STATE) not in _CONNECTED:
        return None
    return _End(
        socket.uint(_NS),
        _plain(_read_address(socket, _SRC_ADDR, name)),
        socket.uint(_SRC_PORT),
        _plain(_read_address(socket, _DST_ADDR, name)),
        socket.uint(_DST_PORT),
    )


def _has_both(socket: Message, ends: set[_End], name: str) -> bool:
    end = _connected_end(socket, name)
    return end is not None and end.other() in ends


def _close(socket: Message) -> None:
    """Make it a socket that is neither bound nor connected (open_inet_sk in criu/sk-inet.c)."""
    socket.set_uint(_STATE, _TCP_CLOSE)
    socket.set_uint(_SRC_PORT, 0)
    socket.set_uint(_DST_PORT, 0)
    for field in (_SRC_ADDR, _DST_ADDR):
        socket.set_uints(field, [0] * len(socket.uints(field)))
    socket.remove(_SHUTDOWN)


def _move(socket: Message, moves: Mapping[Address, Address | None], name: str) -> bool:
    """Replace the old pod's addresses; whether there were any."""
    moved = False
    for field in (_SRC_ADDR, _DST_ADDR):
        address = _read_address(socket, field, name)
        plain = _plain(address)
        if plain not in moves:
            continue
        target = moves[plain]
        if target is None:
            raise Unfit(
                f"the snapshot has a socket on its old pod's address {plain}, "
                f"and this pod has no IPv{plain.version} address"
            )
        if target == plain:
            continue
        _write_address(socket, field, target, mapped=plain is not address)
        moved = True
    return moved


def _read_address(socket: Message, field: int, name: str) -> Address:
    words = socket.uints(field)
    family = socket.uint(_FAMILY)
    wanted = {_AF_INET: 1, _AF_INET6: 4}.get(family)
    if wanted is None or len(words) < wanted or any(word >> 32 for word in words):
        raise Broken(
            f"{name} is damaged: a socket of family {family} in it has an address "
            f"of {len(words)} numbers"
        )
    packed = b"".join(_WORD.pack(word) for word in words[:wanted])
    return ipaddress.ip_address(packed)


def _write_address(socket: Message, field: int, address: Address, *, mapped: bool) -> None:
    packed = address.packed
    if mapped:
        packed = bytes(10) + b"\xff\xff" + packed
    socket.set_uints(field, [word for (word,) in _WORD.iter_unpack(packed)])


def _plain(address: Address) -> Address:
    """An IPv4 address that stands in an IPv6 socket, as itself."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
