# ruff: noqa: INP001, PTH103, PTH108, PTH123, S104 - a program for a container, as plain as such programs are
"""A program with a bit of everything that a capture must carry; it counts on standard output.

python busy.py MEGABYTES
"""

import ctypes
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

blob = os.urandom(int(sys.argv[1]) << 20)
os.makedirs("/data/watched", exist_ok=True)
with open("/data/file", "w") as file:
    file.write("x")
shared = open("/dev/shm/segment", "w+b")  # noqa: SIM115
shared.truncate(1 << 20)
gone = open("/data/gone", "w+")  # noqa: SIM115
gone.write("secret")
gone.flush()
os.unlink("/data/gone")
renamed = open("/data/first", "w+")  # noqa: SIM115
renamed.write("two names")
renamed.flush()
os.link("/data/first", "/data/second")
os.unlink("/data/first")
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(0)
for path in (b"/data/watched", b"/data/file", b"/etc/hosts"):
    assert libc.inotify_add_watch(watch, path, 2) > 0
left, right = socket.socketpair()
epoll = select.epoll()
epoll.register(watch)
event = os.eventfd(0)


def patient(call: Callable[[T], R], argument: T) -> R:
    """A CRIU that is killed can leave a connection for a moment in a mode that answers EPERM."""
    while True:
        try:
            return call(argument)
        except PermissionError:
            time.sleep(0.001)


def echo(connection: socket.socket) -> None:
    with connection:
        while data := patient(connection.recv, 4096):
            patient(connection.sendall, data)


def serve() -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


server = socket.create_server(("0.0.0.0", 8080))
threading.Thread(target=serve, daemon=True).start()
loop = socket.create_connection(("127.0.0.1", 8080))
count = 0
while True:
    patient(loop.sendall, b"ping")
    assert patient(loop.recv, 4) == b"ping"
    left.send(b"x")
    assert right.recv(1) == b"x"
    count += 1
    print(count, flush=True)
    time.sleep(0.02)
