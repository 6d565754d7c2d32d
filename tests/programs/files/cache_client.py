# ruff: noqa: INP001 - scripts of an image, no package
"""A client of memcached: ``set`` stores a value, ``ask`` counts up and reads it."""

from __future__ import annotations

import socket
import sys

connection = socket.create_connection(("127.0.0.1", 11211))
lines = connection.makefile("rwb", 0)


def say(text: bytes) -> bytes:
    """A command's first line of answer."""
    lines.write(text + b"\r\n")
    return lines.readline().strip()


if sys.argv[1] == "set":
    print(say(b"set k 0 0 100000\r\n" + b"v" * 100_000).decode())
else:
    say(b"add n 0 0 1\r\n0")
    print(say(b"incr n 1").decode())
    found = say(b"get k")
    print(found.decode(), found.startswith(b"VALUE") and lines.readline()[:9].decode())
