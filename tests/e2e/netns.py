"""Sockets in the node's network namespace, for this process outside of it.

A socket belongs for good to the network namespace of the thread that made it, so a short-lived
thread enters the node's, makes the socket, and hands it over. Pod addresses, and servers that
listen on the node's loopback, are then reached without a route or a proxy. Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(pid: int) -> None:
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        if _libc.setns(namespace.fileno(), CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}")


def inside(pid: int, action: Callable[[], T]) -> T:
    """The action's value, computed by a thread in the network namespace of a process."""
    outcome: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            _enter(pid)
            outcome.append(action())
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


def connect(pid: int, host: str, port: int, *, timeout: float = 10) -> socket.socket:
    """A TCP connection from the namespace."""
    return inside(pid, lambda: socket.create_connection((host, port), timeout=timeout))


class Http(http.client.HTTPConnection):
    """An HTTP connection from the namespace."""

    def __init__(self, pid: int, host: str, port: int, *, timeout: float = 40) -> None:
        super().__init__(host, port, timeout=timeout)
        self._pid = pid

    def connect(self) -> None:
        """As the base class has it, from the other namespace."""
        self.sock = connect(self._pid, self.host, self.port, timeout=self.timeout or 40)


def get(pid: int, host: str, port: int, path: str, *, timeout: float = 40) -> tuple[int, Any]:
    """The status and the JSON of an HTTP answer."""
    connection = Http(pid, host, port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


class LineServer:
    """A TCP server in the namespace that answers each ``ping`` with ``pong``."""

    def __init__(self, pid: int, host: str) -> None:
        self._server = inside(pid, lambda: socket.create_server((host, 0), backlog=64))
        self.address = "{}:{}".format(*self._server.getsockname())
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(100):
                connection.sendall(b"pong\n")

    def close(self) -> None:
        """End the server and every connection."""
        for one in [self._server, *self.connections]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def line_server(pid: int, host: str) -> Iterator[LineServer]:
    """A :class:`LineServer` for the length of a block."""
    with LineServer(pid, host) as server:
        yield server
