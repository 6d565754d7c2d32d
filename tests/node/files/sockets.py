# ruff: noqa: INP001 - a program for a container
"""A process with every kind of internet socket that a restore has to tell apart.

    sockets.py OWN_ADDRESS NEIGHBOUR_ADDRESS FOLDER

Writes its process id to FOLDER/ready, waits for SIGUSR1, then tries its sockets and writes what
it found to FOLDER/found, as JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

own, neighbour, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])


def listener(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen(8)
    return made


def pair(listening: socket.socket, address: str) -> tuple[socket.socket, socket.socket]:
    one = socket.create_connection((address, listening.getsockname()[1]))
    return one, listening.accept()[0]


def attempt(work: Callable[[], object]) -> object:
    try:
        return work()
    except OSError as error:
        return type(error).__name__


on_own = listener(socket.AF_INET, own, 8080)
on_all = listener(socket.AF_INET, "0.0.0.0", 8081)  # noqa: S104 - of a network namespace of the test
on_all_six = listener(socket.AF_INET6, "::", 8082)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((own, 9000))
loop = pair(on_all, "127.0.0.1")
loop[0].sendall(b"queued")
inner = pair(on_own, own)
inner[0].sendall(b"queued")
mapped = pair(on_all_six, own)
outer = socket.create_connection((neighbour, 7000))
lone, other_end = pair(on_all, "127.0.0.1")
other_end.close()
in_flight = socket.socket()
in_flight.settimeout(0)
in_flight.connect_ex((neighbour.rsplit(".", 1)[0] + ".77", 81))
watch = select.epoll()
watch.register(outer.fileno(), select.EPOLLIN)

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
(folder / "ready").write_text(str(os.getpid()))
signal.sigwait([signal.SIGUSR1])
loop[1].sendall(b"back")
mapped[0].sendall(b"six")
found = {
    "hostname": socket.gethostname(),
    "on own": on_own.getsockname()[0],
    "on all": on_all.getsockname()[0],
    "datagrams": datagrams.getsockname()[0],
    "loop": [loop[1].recv(10).decode(), loop[0].recv(10).decode()],
    "inner": [inner[1].recv(10).decode(), inner[1].getpeername()[0]],
    "mapped": [mapped[1].recv(10).decode(), mapped[1].getpeername()[0]],
    "outer polls": [events for _, events in watch.poll(1)],
    "outer reads": attempt(lambda: outer.recv(1).decode()),
    "outer writes": attempt(lambda: outer.send(b"x")),
    "lone": attempt(lambda: lone.recv(1).decode()),
    "in flight": attempt(in_flight.getpeername),
    "accepts": attempt(
        lambda: len([pair(one, on_own.getsockname()[0]) for one in (on_own, on_all)])
    ),
    "connects": attempt(lambda: socket.create_connection((neighbour, 7000), 5).recv(5).decode()),
}
(folder / "found.new").write_text(json.dumps(found))
(folder / "found.new").rename(folder / "found")
time.sleep(60)
