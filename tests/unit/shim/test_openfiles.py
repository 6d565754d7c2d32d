"""Open descriptors in made-up pictures; real ones are in tests/node/test_preflight.py."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest

from shim import preflight
from shim.external import External, Sorted
from shim.picture import Descriptor, Picture, Socket
from tests.unit.shim.test_preflight import INIT, only, with_task


def with_descriptor(**fields: Any) -> Picture:
    return with_task(descriptors=(Descriptor(number=7, **fields),))


def with_socket(family: int, kind: int, protocol: int = 0, **fields: Any) -> Picture:
    found = Socket(family=family, type=kind, protocol=protocol, **fields)
    return with_descriptor(target="socket:[9]", kind="socket", inode=9, socket=found)


@pytest.mark.parametrize(
    ("target", "check"),
    [
        ("[io_uring]", "io-uring"),
        ("[userfaultfd]", "descriptor"),
        ("bpf-prog", "descriptor"),
        ("[perf_event]", "descriptor"),
        ("seccomp notify", "descriptor"),
        ("[kvm-vm]", "descriptor"),
    ],
)
def test_descriptors_that_criu_cannot_save(target: str, check: str) -> None:
    found = only(with_descriptor(target=f"anon_inode:{target}", kind="other"))
    assert (found.check, found.severity) == (check, "fail")
    assert "process 1 (server), descriptor 7" in found.what


@pytest.mark.parametrize(
    "target",
    ["[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]"],
)
def test_descriptors_that_criu_saves(target: str) -> None:
    picture = with_descriptor(target=f"anon_inode:{target}", kind="other")
    assert preflight.check(picture) == []


@pytest.mark.parametrize(
    ("target", "device"),
    [
        ("/dev/null", (1, 3)),
        ("/dev/urandom", (1, 9)),
        ("/dev/ptmx", (5, 2)),
        ("/dev/pts/0", (136, 0)),
        ("/dev/tty", (5, 0)),
    ],
)
def test_devices_that_may_be_open(target: str, device: tuple[int, int]) -> None:
    assert preflight.check(with_descriptor(target=target, kind="char", device=device)) == []


@pytest.mark.parametrize(
    ("target", "device", "check"),
    [
        ("/dev/fuse", (10, 229), "device"),
        ("/dev/net/tun", (10, 200), "device"),
        ("/dev/nvidia0", (195, 0), "gpu"),
        ("/dev/nvidiactl", (195, 255), "gpu"),
        ("/dev/console", (136, 3), "terminal"),
    ],
)
def test_devices_that_may_not_be_open(target: str, device: tuple[int, int], check: str) -> None:
    found = only(with_descriptor(target=target, kind="char", device=device))
    assert (found.check, found.severity) == (check, "fail")


def test_a_block_device() -> None:
    assert only(with_descriptor(target="/dev/vda", kind="block")).check == "device"


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP),
        (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        (socket.AF_INET, socket.SOCK_RAW, 255),
        (socket.AF_PACKET, socket.SOCK_RAW, 3),
        (socket.AF_NETLINK, socket.SOCK_RAW, 0),
        (socket.AF_UNIX, socket.SOCK_STREAM, 0),
    ],
)
def test_sockets_that_criu_saves(family: int, kind: int, protocol: int) -> None:
    assert preflight.check(with_socket(family, kind, protocol, state="LISTEN")) == []


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "words"),
    [
        (socket.AF_VSOCK, socket.SOCK_STREAM, 0, "vsock"),
        (socket.AF_ALG, socket.SOCK_SEQPACKET, 0, "AF_ALG"),
        (44, socket.SOCK_RAW, 0, "XDP"),
        (99, socket.SOCK_RAW, 0, "family 99"),
        (socket.AF_INET, socket.SOCK_STREAM, 262, "MPTCP"),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP, "protocol 132"),
        (socket.AF_INET, socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP, "type 5"),
    ],
)
def test_sockets_that_criu_does_not_know(family: int, kind: int, protocol: int, words: str) -> None:
    found = only(with_socket(family, kind, protocol))
    assert (found.check, found.severity) == ("socket", "fail")
    assert words in found.why


def test_an_older_criu_on_a_newer_kernel() -> None:
    picture = with_socket(socket.AF_INET, socket.SOCK_STREAM, 6, state="LISTEN")
    old = replace(picture, criu="4.1.1", passcred=False)
    assert only(old).check == "criu-sockets"
    assert "4.2" in only(old).remedy
    assert preflight.check(replace(old, passcred=True)) == []
    assert preflight.check(replace(old, criu="4.2")) == []
    unix = with_socket(socket.AF_UNIX, socket.SOCK_STREAM)
    assert preflight.check(replace(unix, criu="4.1.1", passcred=False)) == []


def test_netlink() -> None:
    found = only(with_socket(socket.AF_NETLINK, socket.SOCK_RAW, 0, unread=True))
    assert (found.check, found.severity) == ("netlink", "fail")
    found = only(with_socket(socket.AF_NETLINK, socket.SOCK_RAW, 12))
    assert (found.check, found.severity) == ("socket", "warn")


def test_a_connection_being_opened() -> None:
    found = only(with_socket(socket.AF_INET, socket.SOCK_STREAM, 6, state="SYN_SENT"))
    assert (found.check, found.severity) == ("in-flight", "warn")


def test_unix_sockets_and_their_other_end() -> None:
    outside = with_socket(socket.AF_UNIX, socket.SOCK_STREAM, peer=77, path="/run/x.sock")
    found = only(outside)
    assert (found.check, found.severity) == ("unix-socket", "fail")
    assert "/run/x.sock" in found.why
    # CRIU keeps a datagram socket to the outside, such as a log daemon's.
    assert preflight.check(with_socket(socket.AF_UNIX, socket.SOCK_DGRAM, peer=77)) == []
    peer = Descriptor(
        number=8,
        target="socket:[77]",
        kind="socket",
        inode=77,
        socket=Socket(family=socket.AF_UNIX, type=socket.SOCK_STREAM, protocol=0, peer=9),
    )
    inside = replace(outside, tasks=(*outside.tasks, replace(INIT, pid=101, descriptors=(peer,))))
    assert preflight.check(inside) == []


@pytest.mark.parametrize(
    ("target", "links", "warned"),
    [
        ("/data/db/base", 1, True),
        ("/database", 1, False),
        ("/etc/hosts", 1, False),
        ("/data/gone (deleted)", 0, False),
        ("/dev/shm/block", 1, False),
    ],
)
def test_a_file_on_a_volume_is_a_warning(target: str, links: int, warned: bool) -> None:  # noqa: FBT001
    mounts = tuple(External(target=at, name=at) for at in ("/data", "/etc/hosts", "/dev/shm"))
    picture = replace(
        with_descriptor(target=target, kind="file", links=links),
        mounts=Sorted(external=mounts, submounts=(), unsupported=()),
    )
    found = preflight.check(picture)
    assert [(one.check, one.severity) for one in found] == [("volume", "warn")] * warned
    assert all("the volume /data " in one.why for one in found)


def test_each_volume_is_told_of_once() -> None:
    files = tuple(
        Descriptor(number=number, target=f"/data/{number}", kind="file") for number in (3, 4)
    )
    mounts = (External(target="/data", name="/data"),)
    picture = replace(
        with_task(descriptors=files),
        tasks=(replace(INIT, descriptors=files), replace(INIT, pid=101, descriptors=files)),
        mounts=Sorted(external=mounts, submounts=(), unsupported=()),
    )
    assert "descriptor 3 (/data/3)" in only(picture).what
