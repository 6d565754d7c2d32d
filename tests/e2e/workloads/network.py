"""Behaviours of network sockets."""

from __future__ import annotations

import os
import select
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

from .behaviour import Answer, Behaviour, attempt, behaviour, until

LOOPBACK = "127.0.0.1"


@behaviour
class Listening(Behaviour):
    """Listening TCP sockets: every address, loopback, IPv6, with options."""

    def set_up(self) -> None:
        self.every = socket.create_server(("0.0.0.0", 9001), backlog=7)  # noqa: S104
        self.local = socket.create_server((LOOPBACK, 9002), reuse_port=True)
        self.local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.local.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.six = None
        addresses = Path("/proc/net/if_inet6")
        if addresses.exists() and addresses.read_text():
            self.six = socket.create_server(("::1", 9003), family=socket.AF_INET6)

    @staticmethod
    def _ask(server: socket.socket, address: tuple[str, int]) -> str:
        with socket.create_connection(address, timeout=5) as client:
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(b"hello")
                return client.recv(10).decode()

    def observe(self) -> Answer:
        return {
            "every": self._ask(self.every, (LOOPBACK, 9001)),
            "local": self._ask(self.local, (LOOPBACK, 9002)),
            "six": self.six and self._ask(self.six, ("::1", 9003)),
            "options": [
                self.local.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT),
                self.local.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                self.local.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            ],
        }


@behaviour
class Loopback(Behaviour):
    """Established TCP connections inside the container, with data on its way both ways."""

    def set_up(self) -> None:
        self.server = socket.create_server((LOOPBACK, 0))
        self.client = socket.create_connection(self.server.getsockname())
        self.accepted, _ = self.server.accept()
        self.client.sendall(b"c" * 100_000)
        self.accepted.sendall(b"s" * 50_000)
        # Closed on one side: the other has data to read, then the end.
        self.half = socket.create_connection(self.server.getsockname())
        self.half_accepted, _ = self.server.accept()
        self.half.sendall(b"last words")
        self.half.shutdown(socket.SHUT_WR)
        for connection in (self.client, self.accepted, self.half, self.half_accepted):
            connection.settimeout(5)

    @staticmethod
    def _read(connection: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count and (part := connection.recv(count - len(data))):
            data += part
        return data

    def observe(self) -> Answer:
        waiting = [len(self._read(self.accepted, 100_000)), len(self._read(self.client, 50_000))]
        self.client.sendall(b"again")
        self.accepted.sendall(b"and back")
        return {
            "waiting": waiting,
            "client": self._read(self.client, 8).decode(),
            "server": self._read(self.accepted, 5).decode(),
            "half": [
                self._read(self.half_accepted, 10).decode(),
                self.half_accepted.recv(1).decode(),
            ],
            "back": [self.half_accepted.send(b"late"), self._read(self.half, 4).decode()],
        }


@behaviour
class Datagrams(Behaviour):
    """UDP sockets, bound and connected, with a datagram waiting."""

    def set_up(self) -> None:
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind((LOOPBACK, 9011))
        self.every = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.every.bind(("0.0.0.0", 9012))  # noqa: S104
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect((LOOPBACK, 9011))
        for one in (self.server, self.every, self.client):
            one.settimeout(5)

    def observe(self) -> Answer:
        self.client.send(b"question")
        text, sender = self.server.recvfrom(100)
        self.server.sendto(b"answer", sender)
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.sendto(b"to every", (LOOPBACK, 9012))
        return {
            "question": text.decode(),
            "answer": self.client.recv(100).decode(),
            "every": self.every.recv(100).decode(),
            "name": list(self.server.getsockname()),
        }


@behaviour
class Outside(Behaviour):
    """A TCP connection to a server outside of the pod; where is in $OUTSIDE (HOST:PORT)."""

    needs = "OUTSIDE"

    def set_up(self) -> None:
        address = urlsplit("//" + os.environ["OUTSIDE"])
        self.connection = socket.create_connection((address.hostname, address.port), timeout=5)
        self.error: object = None
        self.lines = 0
        self._exchange()
        self.blocked = socket.create_connection((address.hostname, address.port), timeout=5)
        self.blocked.settimeout(None)
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _exchange(self) -> object:
        def act() -> object:
            self.connection.sendall(b"ping\n")
            answer = self.connection.recv(100)
            return answer.decode() or "end of file"

        return attempt(act)

    def _read(self) -> None:
        """Blocked in recv, as a client that waits for its server."""
        self.outcome = attempt(lambda: self.blocked.recv(1).decode() or "end of file")
        self.ended.set()

    def observe(self) -> Answer:
        ended = self.ended.wait(2)
        first = self._exchange()
        return {
            "exchange": first,
            "blocked read": self.outcome if ended else "still waiting",
            "new connection": attempt(self._again),
        }

    def _again(self) -> object:
        self.connection.close()
        address = urlsplit("//" + os.environ["OUTSIDE"])
        self.connection = socket.create_connection((address.hostname, address.port), timeout=5)
        return self._exchange()


@behaviour
class Polled(Behaviour):
    """A server that waits in epoll for its sockets, as an event loop does."""

    def set_up(self) -> None:
        self.server = socket.create_server((LOOPBACK, 0))
        self.server.settimeout(0)
        self.epoll = select.epoll()
        self.epoll.register(self.server, select.EPOLLIN)
        self.served = 0
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self) -> None:
        while True:
            for _ in self.epoll.poll():
                connection, _ = self.server.accept()
                connection.close()
                self.served += 1

    def observe(self) -> Answer:
        for _ in range(3):
            socket.create_connection(self.server.getsockname(), timeout=5).close()
        return {"served": until(lambda: self.served == 3)}
