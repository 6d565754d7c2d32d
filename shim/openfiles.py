"""Which open descriptors CRIU can save, and what to do about the others.

Read in CRIU 4.2: criu/files.c (dump_one_file, dump_chrdev), sockets.c and sk-*.c.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import PurePath

from shim.finding import Finding
from shim.picture import Descriptor, Picture, Socket

SUPPORTED_ANONYMOUS = frozenset(
    {
        "[eventfd]",
        "[eventpoll]",
        "inotify",
        "[fanotify]",
        "[signalfd]",
        "[timerfd]",
        "[pidfd]",
    }
)
"""anon_inode: descriptors that CRIU saves (criu/files.c, dump_one_file). bpf-map depends on how
CRIU was built and is not counted on."""

_NVIDIA = re.compile(r"/dev/nvidia")
_MEMORY_MAJOR = 1  # null, zero, full, random, urandom, kmsg (Linux: devices.txt)
_TTY_MAJORS = frozenset({4, 5, *range(128, 144)})  # tty, console and ptmx, pseudo terminals
_DEV_TTY = (5, 0)
_FAMILIES = frozenset(
    {
        socket.AF_UNIX,
        socket.AF_INET,
        socket.AF_INET6,
        socket.AF_PACKET,
        socket.AF_NETLINK,
    }
)
_FAMILY_NAMES = {
    socket.AF_VSOCK: "vsock",
    socket.AF_ALG: "kernel crypto (AF_ALG)",
    getattr(socket, "AF_XDP", 44): "XDP",
    getattr(socket, "AF_BLUETOOTH", 31): "Bluetooth",  # a Python may be built without it
    socket.AF_CAN: "CAN",
    socket.AF_RDS: "RDS",
    socket.AF_TIPC: "TIPC",
    getattr(socket, "AF_SMC", 43): "SMC",
}
_MPTCP = 262  # IPPROTO_MPTCP
_PROTOCOLS = frozenset(
    {
        0,
        socket.IPPROTO_TCP,
        socket.IPPROTO_UDP,
        136,  # UDP-Lite
        socket.IPPROTO_ICMP,
        socket.IPPROTO_ICMPV6,
    }
)
_SAVED = "/dev/shm"  # noqa: S108 - a mount of the pod, and yet part of a snapshot
_NETLINK_KINDS = frozenset({0, 4, 9, 15, 16})
"""NETLINK_ROUTE, SOCK_DIAG, AUDIT, KOBJECT_UEVENT, GENERIC: CRIU opens them anew, empty."""


def findings(picture: Picture) -> Iterator[Finding]:
    """The open descriptors that CRIU cannot save."""
    inside = {
        descriptor.inode
        for task in picture.tasks
        for descriptor in task.descriptors
        if descriptor.kind == "socket"
    }
    for task in picture.tasks:
        for descriptor in task.descriptors:
            what = f"{task}, descriptor {descriptor.number} ({descriptor.target})"
            asked = not picture.gpu_problem and task.state not in ("T", "t")
            if _NVIDIA.match(descriptor.target) and (task.cuda or not asked):
                continue  # the driver closes it, or shim.preflight tells why it cannot
            found = _descriptor(descriptor, what, inside)
            if found is not None:
                yield found
    yield from _on_volumes(picture)


def _on_volumes(picture: Picture) -> Iterator[Finding]:
    """One finding for each volume that a process has a file open on."""
    places = {mount.target for mount in picture.mounts.external}
    told: set[str] = set()
    for task in picture.tasks:
        for descriptor in task.descriptors:
            if descriptor.kind != "file" or not descriptor.links:
                continue
            place = next(
                (str(up) for up in PurePath(descriptor.target).parents if str(up) in places), ""
            )
            if not place or place in told or place.startswith(_SAVED):
                continue
            told.add(place)
            yield Finding(
                check="volume",
                severity="warn",
                what=f"{task}, descriptor {descriptor.number} ({descriptor.target})",
                why=f"the content of the volume {place} is not part of the snapshot, and a restore "
                "fails where this file is missing or has another size",
                remedy="restore where the volume has the same file (an emptyDir begins empty), or "
                "keep the file in the container's own file system",
            )


def _descriptor(descriptor: Descriptor, what: str, inside: set[int]) -> Finding | None:
    if descriptor.target.startswith("anon_inode:"):
        return _anonymous(descriptor.target.removeprefix("anon_inode:"), what)
    if descriptor.kind == "char":
        return _character_device(descriptor, what)
    if descriptor.kind == "block":
        return Finding(
            check="device",
            severity="fail",
            what=what,
            why="a block device is open",
            remedy="close it before the capture",
        )
    if descriptor.socket is not None:
        return _socket(descriptor.socket, what, inside)
    return None


def _anonymous(name: str, what: str) -> Finding | None:
    if name in SUPPORTED_ANONYMOUS:
        return None
    if name == "[io_uring]":
        return Finding(
            check="io-uring",
            severity="fail",
            what=what,
            why="CRIU cannot save io_uring",
            remedy="give the pod the seccompProfile RuntimeDefault, which denies io_uring from "
            "containerd 2.0 on (programs on libuv, such as Node.js, go on without it), or switch "
            "io_uring off in the program",
        )
    if name == "[userfaultfd]":
        why, remedy = "CRIU cannot save userfaultfd", "switch it off in the program"
    elif name.startswith(("bpf", "[perf_event]")):
        why, remedy = "BPF and perf descriptors cannot be saved", "end the tracing in the program"
    elif "seccomp" in name:
        why = "a seccomp filter reports to this descriptor, which cannot be saved"
        remedy = "do without the seccomp notifier"
    else:
        why = "CRIU does not know this kind of descriptor"
        remedy = "close it before the capture"
    return Finding(check="descriptor", severity="fail", what=what, why=why, remedy=remedy)


def _character_device(descriptor: Descriptor, what: str) -> Finding | None:
    major, _ = descriptor.device
    if major == _MEMORY_MAJOR:
        return None
    if _NVIDIA.match(descriptor.target):
        return Finding(
            check="gpu",
            severity="fail",
            what=what,
            why="the process holds a GPU without using CUDA, and only CUDA can be checkpointed",
            remedy="start child processes of a CUDA program by exec, not by fork alone; do "
            "without NVML and graphics, or use a driver that can checkpoint CUDA",
        )
    if major in _TTY_MAJORS:
        # Both ends of a pseudo terminal made inside the container are saved together.
        if descriptor.device == _DEV_TTY or not descriptor.target.startswith("/dev/pts/"):
            if descriptor.target in ("/dev/ptmx", "/dev/pts/ptmx", "/dev/tty"):
                return None
            return Finding(
                check="terminal",
                severity="fail",
                what=what,
                why="a terminal from outside the container is open",
                remedy="run the container without a terminal",
            )
        return None
    return Finding(
        check="device",
        severity="fail",
        what=what,
        why=f"the device {major}:{descriptor.device[1]} is open, "
        "and what the kernel keeps of it cannot be saved",
        remedy="close it before the capture",
    )


def _socket(found: Socket, what: str, inside: set[int]) -> Finding | None:
    if found.family not in _FAMILIES:
        name = _FAMILY_NAMES.get(found.family, f"family {found.family}")
        return Finding(
            check="socket",
            severity="fail",
            what=what,
            why=f"a socket of {name} cannot be saved",
            remedy="close it before the capture",
        )
    if found.family == socket.AF_UNIX:
        return _unix(found.peer, found.type, found.path, what, inside)
    if found.family == socket.AF_NETLINK:
        if found.unread:
            return Finding(
                check="netlink",
                severity="fail",
                what=what,
                why="a netlink socket holds messages that were not read",
                remedy="let the program read them or close the socket before the capture",
            )
        if found.protocol in _NETLINK_KINDS:
            return None
        return Finding(
            check="socket",
            severity="warn",
            what=what,
            why=f"a netlink socket of protocol {found.protocol} comes back without its state",
            remedy="let the program open it again after a restore",
        )
    if found.family in (socket.AF_INET, socket.AF_INET6):
        return _inet(found.type, found.protocol, found.state, what)
    return None


def _unix(peer: int, kind: int, path: str, what: str, inside: set[int]) -> Finding | None:
    if peer == 0 or peer in inside or kind == socket.SOCK_DGRAM:
        return None
    where = f" at {path}" if path else ""
    return Finding(
        check="unix-socket",
        severity="fail",
        what=what,
        why=f"it is connected to a process outside the container{where}",
        remedy="let the program close this connection before the capture, "
        "and connect again after a restore",
    )


def _inet(kind: int, protocol: int, state: str, what: str) -> Finding | None:
    if kind not in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        why, remedy = f"sockets of type {kind} cannot be saved", "close it before the capture"
    elif kind != socket.SOCK_RAW and protocol not in _PROTOCOLS:
        why = f"the protocol {'MPTCP' if protocol == _MPTCP else protocol} cannot be saved"
        remedy = (
            "start the pod with the annotation podthaw.dev/snapshot, which gives it plain TCP, "
            "or set GODEBUG=multipathtcp=0 for programs in Go"
            if protocol == _MPTCP
            else "close it before the capture"
        )
    elif state == "SYN_SENT":
        return Finding(
            check="in-flight",
            severity="warn",
            what=what,
            why="a connection is being opened just now",
            remedy="capture when the program is at rest; the connection comes back closed",
        )
    else:
        return None
    return Finding(check="socket", severity="fail", what=what, why=why, remedy=remedy)
