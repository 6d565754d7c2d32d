"""Behaviours of channels between processes: pipes, unix sockets, epoll, eventfd, terminals."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
from pathlib import Path

from .behaviour import Answer, Behaviour, attempt, behaviour, call, scratch

F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032


@behaviour
class Pipes(Behaviour):
    """Pipes with data inside, an empty one, another size, a named one, one shared with a child."""

    def set_up(self) -> None:
        self.plain = os.pipe()
        os.write(self.plain[1], b"x" * 40_000 + b"end")
        self.large = os.pipe()
        fcntl.fcntl(self.large[1], F_SETPIPE_SZ, 1 << 18)
        os.write(self.large[1], b"y" * 200_000)
        self.empty = os.pipe2(os.O_NONBLOCK)
        self.closed = os.pipe()
        os.write(self.closed[1], b"last words")
        os.close(self.closed[1])
        fifo = Path(scratch()) / "fifo"
        os.mkfifo(fifo)
        self.fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        os.write(self.fifo, b"in the fifo")

    def observe(self) -> Answer:
        data = b""
        while len(data) < 40_003:
            data += os.read(self.plain[0], 65536)
        return {
            "plain": [len(data), data[-3:].decode()],
            "size": fcntl.fcntl(self.large[0], F_GETPIPE_SZ),
            "large": len(os.read(self.large[0], 1 << 18)),
            "empty": attempt(lambda: os.read(self.empty[0], 1)),
            "closed": [os.read(self.closed[0], 100).decode(), os.read(self.closed[0], 1).decode()],
            "fifo": os.read(self.fifo, 100).decode(),
        }


@behaviour
class UnixPairs(Behaviour):
    """Connected unix sockets of each type with data queued both ways, one with a half closed."""

    TYPES = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)

    def set_up(self) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, kind) for kind in self.TYPES]
        for left, right in self.pairs:
            left.settimeout(5)
            right.settimeout(5)
            for text in (b"first", b"second"):
                left.send(text)
            right.send(b"back")
        self.half = socket.socketpair()
        self.half[0].sendall(b"then the end")
        self.half[0].shutdown(socket.SHUT_WR)
        self.pairs[0][0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 7, 0))

    def observe(self) -> Answer:
        received = []
        for (left, right), kind in zip(self.pairs, self.TYPES, strict=True):
            if kind == socket.SOCK_STREAM:
                received.append([right.recv(100).decode(), left.recv(100).decode()])
            else:
                received.append([right.recv(100).decode() for _ in range(2)])
                received[-1].append(left.recv(100).decode())
            left.send(b"more")
            received[-1].append(right.recv(100).decode())
        return {
            "received": received,
            "half": [self.half[1].recv(100).decode(), self.half[1].recv(100).decode()],
            "timeout": struct.unpack(
                "ll", self.pairs[0][0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
            )[0],
        }


@behaviour
class UnixServers(Behaviour):
    """Listening unix sockets, by path and abstract, and a datagram one with a message waiting."""

    def set_up(self) -> None:
        self.path = f"{scratch()}/server.sock"
        self.datagram_path = f"{scratch()}/datagram.sock"
        self.abstract = "\0podthaw-workload"
        self.servers = {}
        self.connected = {}
        for address in (self.path, self.abstract):
            server = socket.socket(socket.AF_UNIX)
            server.bind(address)
            server.listen(4)
            client = socket.socket(socket.AF_UNIX)
            client.connect(address)
            accepted, _ = server.accept()
            accepted.sendall(b"hello")
            self.servers[address] = server
            self.connected[address] = (client, accepted)
        self.datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.datagram.bind(self.datagram_path)
        self.sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sender.connect(self.datagram_path)
        self.sender.send(b"waiting")

    def _ask(self, address: str) -> list[str]:
        client, accepted = self.connected[address]
        old = client.recv(100).decode()
        client.sendall(b"still")
        new = socket.socket(socket.AF_UNIX)
        new.settimeout(5)
        new.connect(address)
        server_side, _ = self.servers[address].accept()
        server_side.sendall(b"welcome")
        return [old, accepted.recv(100).decode(), new.recv(100).decode()]

    def observe(self) -> Answer:
        self.sender.send(b"another")
        return {
            "path": self._ask(self.path),
            "abstract": self._ask(self.abstract),
            "name": self.servers[self.path].getsockname(),
            "datagrams": [self.datagram.recv(100).decode() for _ in range(2)],
        }


@behaviour
class PassedDescriptor(Behaviour):
    """A descriptor on its way through a unix socket, sent and not yet received."""

    def set_up(self) -> None:
        self.pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        reader, writer = os.pipe()
        os.write(writer, b"through the pipe that was sent")
        socket.send_fds(self.pair[0], [b"take it"], [reader])
        os.close(reader)
        self.writer = writer

    def observe(self) -> Answer:
        text, fds, _, _ = socket.recv_fds(self.pair[1], 100, 1)
        return {"text": text.decode(), "content": os.read(fds[0], 100).decode()}


@behaviour
class Epoll(Behaviour):
    """An epoll set: level and edge, one-shot spent, nested, with data ready and not."""

    def set_up(self) -> None:
        self.level, self.edge, self.spent, self.quiet = (os.pipe() for _ in range(4))
        self.epoll = select.epoll()
        self.epoll.register(self.level[0], select.EPOLLIN)
        self.epoll.register(self.edge[0], select.EPOLLIN | select.EPOLLET)
        self.epoll.register(self.spent[0], select.EPOLLIN | select.EPOLLONESHOT)
        self.epoll.register(self.quiet[0], select.EPOLLIN)
        os.write(self.spent[1], b"x")
        self.epoll.poll(1)
        os.write(self.level[1], b"x")
        self.outer = select.epoll()
        self.outer.register(self.epoll.fileno(), select.EPOLLIN)

    def observe(self) -> Answer:
        names = {
            self.level[0]: "level",
            self.edge[0]: "edge",
            self.spent[0]: "spent",
            self.quiet[0]: "quiet",
            self.epoll.fileno(): "inner",
        }

        def ready(epoll: select.epoll) -> list[str]:
            return sorted(names[fd] for fd, _ in epoll.poll(0.2))

        outer = ready(self.outer)
        first = ready(self.epoll)
        os.write(self.edge[1], b"x")
        second = ready(self.epoll)
        third = ready(self.epoll)
        self.epoll.modify(self.spent[0], select.EPOLLIN | select.EPOLLONESHOT)
        return {
            "outer": outer,
            "first": first,
            "second": second,
            "third": third,
            "armed again": ready(self.epoll),
        }


@behaviour
class Eventfd(Behaviour):
    """The counter of an eventfd."""

    def set_up(self) -> None:
        self.plain = os.eventfd(7, os.EFD_NONBLOCK)

    def observe(self) -> Answer:
        return {
            "plain": [os.eventfd_read(self.plain), attempt(lambda: os.eventfd_read(self.plain))],
        }


@behaviour
class Signalfd(Behaviour):
    """A signalfd with a signal waiting in it."""

    def set_up(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        mask = struct.pack("<Q", 1 << (signal.SIGUSR1 - 1)).ljust(128, b"\0")
        self.fd = call("signalfd", -1, mask, os.O_NONBLOCK)
        os.kill(os.getpid(), signal.SIGUSR1)

    def observe(self) -> Answer:
        number = struct.unpack_from("<I", os.read(self.fd, 128))[0]
        return {"signal": number, "then": attempt(lambda: os.read(self.fd, 128))}


@behaviour
class Terminal(Behaviour):
    """A pseudo terminal pair: its settings, its size and the line that waits in it."""

    def set_up(self) -> None:
        import termios

        self.master, self.slave = os.openpty()
        settings = termios.tcgetattr(self.slave)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(self.slave, termios.TCSANOW, settings)
        termios.tcsetwinsize(self.slave, (33, 99))

    def observe(self) -> Answer:
        import termios

        os.write(self.master, b"a line\n")
        return {
            "echo": bool(termios.tcgetattr(self.slave)[3] & termios.ECHO),
            "size": list(termios.tcgetwinsize(self.slave)),
            "line": os.read(self.slave, 100).decode(),
            "name": os.ttyname(self.slave),
        }


@behaviour
class Netlink(Behaviour):
    """A routing socket answers."""

    RTM_GETLINK, NLM_F_REQUEST_DUMP = 18, 0x301

    def set_up(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self.socket.bind((0, 0))
        self.socket.settimeout(5)

    def observe(self) -> Answer:
        header = struct.pack("IHHII", 32, self.RTM_GETLINK, self.NLM_F_REQUEST_DUMP, 1, 0)
        self.socket.send(header + bytes(16))
        return {"answer": struct.unpack_from("IH", self.socket.recv(65536))[1]}
