from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import sockets
from shim.picture import Socket


@pytest.fixture
def duplicates() -> sockets.Duplicates:
    return sockets.Duplicates()


def described(found: socket.socket, duplicates: sockets.Duplicates) -> Socket | None:
    with duplicates:
        peers = sockets.unix_peers(os.getpid())
        return duplicates.describe(os.getpid(), found.fileno(), peers)


def test_tcp(duplicates: sockets.Duplicates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert described(server, duplicates) == Socket(
            family=socket.AF_INET, type=socket.SOCK_STREAM, protocol=6, state="LISTEN"
        )
        with socket.create_connection(server.getsockname()) as client:
            found = described(client, duplicates)
            assert found is not None
            assert found.state == "ESTABLISHED"


def test_a_socket_that_no_table_lists(duplicates: sockets.Duplicates) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as fresh:
        assert described(fresh, duplicates) == Socket(
            family=socket.AF_INET6, type=socket.SOCK_DGRAM, protocol=17
        )


def test_unix_peers(duplicates: sockets.Duplicates, tmp_path: Path) -> None:
    address = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(address)
        server.listen()
        client.connect(address)
        accepted, _ = server.accept()
        with accepted:
            found = described(client, duplicates)
            assert found is not None
            assert found.peer == os.fstat(accepted.fileno()).st_ino
            assert found.path == address
            alone = described(server, duplicates)
            assert alone is not None
            assert alone.peer == 0


def test_netlink_with_and_without_messages(duplicates: sockets.Duplicates) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        found = described(netlink, duplicates)
        assert found is not None
        assert not found.unread
        # RTM_GETLINK of everything: the kernel answers at once.
        netlink.send(struct.pack("=IHHIIBxxx", 20, 18, 0x301, 1, 0, 0))
        found = described(netlink, duplicates)
        assert found is not None
        assert found.unread
        assert netlink.recv(16)  # the look did not take them


def test_what_is_gone_or_no_socket(duplicates: sockets.Duplicates, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, duplicates:
        assert duplicates.describe(os.getpid(), file.fileno(), {}) is None
        assert duplicates.describe(os.getpid(), 9999, {}) is None
        assert duplicates.describe(2**22 - 1, 0, {}) is None


def test_repair_mode_ends(duplicates: sockets.Duplicates) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        with accepted, duplicates:
            assert not duplicates.end_repair(os.getpid(), client.fileno())
            client.setsockopt(socket.IPPROTO_TCP, sockets._TCP_REPAIR, 1)
            with pytest.raises(PermissionError):
                client.recv(1)
            assert duplicates.end_repair(os.getpid(), client.fileno())
            accepted.sendall(b"x")
            client.settimeout(5)
            assert client.recv(1) == b"x"
            client.sendall(b"y")
            assert accepted.recv(1) == b"y"


@given(st.binary(max_size=300))
def test_any_answer_of_the_kernel_is_read(data: bytes) -> None:
    found: sockets.Peers = {}
    sockets.parse_unix_diag(data, found)
    assert all(peer >= 0 for peer, _ in found.values())


def test_an_abstract_name() -> None:
    body = struct.pack("=BBBBIII", 1, 1, 1, 0, 42, 0, 0)
    body += struct.pack("=HH", 4 + 4, 0) + b"\0abc"
    body += struct.pack("=HHI", 8, 2, 43)
    message = struct.pack("=IHHII", 16 + len(body), 20, 0, 1, 0) + body
    found: sockets.Peers = {}
    assert sockets.parse_unix_diag(message, found)
    assert found == {42: (43, "@abc")}
    done = struct.pack("=IHHII", 16, 3, 0, 1, 0)
    assert not sockets.parse_unix_diag(done, found)
