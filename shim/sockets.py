"""Sockets of other processes: what they are, who is at the other end, and TCP repair mode.

A duplicate made with pidfd_getfd(2) is the very socket of the other process: what is asked of it
or set on it holds for both.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from shim.namespaces import in_namespace
from shim.picture import Socket

_PIDFD_GETFD = 438  # the same on every architecture: newer than their tables' split
_SO_PROTOCOL = 38
_TCP_REPAIR = 19  # linux/tcp.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_UDIAG_SHOW_NAME, _UDIAG_SHOW_PEER = 1, 4
_UNIX_DIAG_NAME, _UNIX_DIAG_PEER = 0, 2
_UNIX_HEADER = 16  # struct unix_diag_msg
_NLMSG_DONE, _NLMSG_ERROR = 3, 2
_REQUEST_DUMP = 0x1 | 0x300  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_TCP_STATES = (
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
)

Peers = dict[int, tuple[int, str]]
"""Inode of a unix socket → inode of its peer (0: none) and the address it is bound to."""

T = TypeVar("T")


class Duplicates:
    """Duplicates of other processes' descriptors; one pidfd a process is kept open."""

    def __init__(self) -> None:
        self._pidfds: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        for fd in self._pidfds.values():
            os.close(fd)
        self._pidfds.clear()

    def with_socket(self, pid: int, number: int, use: Callable[[socket.socket], T]) -> T | None:
        """Call ``use`` with a duplicate of a socket; None when it is gone or no socket."""
        try:
            pidfd = self._pidfds.get(pid)
            if pidfd is None:
                pidfd = self._pidfds[pid] = os.pidfd_open(pid)
            fd = _getfd(pidfd, number)
        except OSError:
            return None
        try:
            duplicate = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            return None
        with duplicate:
            try:
                return use(duplicate)
            except OSError:
                return None

    def describe(self, pid: int, number: int, peers: Peers) -> Socket | None:
        """What a socket is; None when it cannot be asked."""
        return self.with_socket(pid, number, lambda found: _describe(found, peers))

    def end_repair(self, pid: int, number: int) -> bool:
        """Take a TCP socket out of repair mode, in which a killed CRIU left it; True if it was.

        In repair mode a connection neither sends nor receives (tcp(7) does not tell; kernel:
        net/ipv4/tcp.c).
        """
        return bool(self.with_socket(pid, number, _end_repair))


def answers_passcred() -> bool:
    """Whether this kernel answers SO_PASSCRED on internet sockets, as all did before 6.16."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED)
        except OSError:
            return False
    return True


def unix_peers(pid: int) -> Peers:
    """The unix sockets of a process's network namespace with their peers (sock_diag(7))."""
    try:
        return in_namespace(f"/proc/{pid}/ns/net", _dump_unix)
    except OSError:
        return {}


def _describe(found: socket.socket, peers: Peers) -> Socket:
    protocol = found.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL)
    state, unread, peer, path = "", False, 0, ""
    if found.family in (socket.AF_INET, socket.AF_INET6) and protocol == socket.IPPROTO_TCP:
        index = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        state = _TCP_STATES[index] if index < len(_TCP_STATES) else str(index)
    elif found.family == socket.AF_UNIX:
        peer, path = peers.get(os.fstat(found.fileno()).st_ino, (0, ""))
        path = path or peers.get(peer, (0, ""))[1] or _peer_name(found)
    elif found.family == socket.AF_NETLINK:
        unread = _has_data(found)
    return Socket(
        family=int(found.family),
        type=int(found.type),
        protocol=protocol,
        state=state,
        peer=peer,
        unread=unread,
        path=path,
    )


def _peer_name(found: socket.socket) -> str:
    try:
        return _text(found.getpeername())
    except OSError:
        return ""


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else "@" + name[1:].decode(errors="replace")


def _has_data(found: socket.socket) -> bool:
    try:
        found.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno == errno.ENOBUFS
    return True


def _end_repair(found: socket.socket) -> bool:
    if found.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if found.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR) != 1:
        return False
    # 0 and not -1: with a window probe, so that the peer is heard again at once.
    found.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 0)
    return True


def _getfd(pidfd: int, number: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(_PIDFD_GETFD, pidfd, number, 0))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def _dump_unix() -> Peers:
    request = struct.pack(
        "=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_NAME | _UDIAG_SHOW_PEER, 0, 0
    )
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    found: Peers = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(5)
        netlink.sendto(header + request, (0, 0))
        while parse_unix_diag(netlink.recv(1 << 16), found):
            pass
    return found


def parse_unix_diag(data: bytes, found: Peers) -> bool:
    """Read one datagram of a sock_diag answer into ``found``; False after the last one."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < 16:
            return False
        if length >= 32:
            _unix_entry(data[offset + 16 : offset + length], found)
        offset += (length + 3) & ~3
    return True


def _unix_entry(body: bytes, found: Peers) -> None:
    if len(body) < _UNIX_HEADER:
        return
    inode = struct.unpack_from("=I", body, 4)[0]
    peer, name = 0, ""
    offset = _UNIX_HEADER
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            break
        value = body[offset + 4 : offset + length]
        if kind == _UNIX_DIAG_PEER and len(value) >= 4:
            peer = struct.unpack_from("=I", value)[0]
        elif kind == _UNIX_DIAG_NAME:
            name = (
                "@" + value[1:].decode(errors="replace")
                if value[:1] == b"\0"
                else (value.rstrip(b"\0").decode(errors="replace"))
            )
        offset += (length + 3) & ~3
    found[inode] = (peer, name)
