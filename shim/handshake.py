"""Stopping a dump at the point where everything is saved and the container still stands still.

CRIU runs an action script at each stage. The one made here does nothing but for ``post-dump``,
which CRIU runs when all images are written, before it lets the processes go (criu/cr-dump.c,
cr_dump_finish): then it connects to a unix socket of the capture and waits for its word. Without
it (the capture failed, or died and the connection broke) the script fails, and CRIU takes that
as a failed dump and resumes the container.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Self

GO = b"go\n"

_BACKLOG = 1

_ASK = (
    "import socket, sys\n"
    "s = socket.socket(socket.AF_UNIX)\n"
    "s.connect(sys.argv[1])\n"
    "sys.exit(0 if s.recv(8) == b'go\\n' else 1)\n"
)


class Handshake:
    """The capture's side: the script, the socket, and the answer."""

    def __init__(self, script: Path, address: Path) -> None:
        self.script = script
        self.address = address
        """Path of the socket; at most 107 bytes (unix(7))."""
        self._asked: socket.socket | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            address.unlink(missing_ok=True)
            self._socket.bind(str(address))
            address.chmod(0o600)
            self._socket.listen(_BACKLOG)
            self._socket.settimeout(0)
            _write(script, address)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Becomes readable when the container stands still with everything saved."""
        return self._socket.fileno()

    def accept(self) -> None:
        """Take the question."""
        self._asked, _ = self._socket.accept()

    def answer(self) -> None:
        """Say that all is well; a CRIU that is gone does not hear it."""
        if self._asked is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._asked.sendall(GO)

    def refuse(self) -> None:
        """Say that something failed: CRIU resumes the container."""
        if self._asked is not None:
            self._asked.close()
            self._asked = None
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.address.unlink(missing_ok=True)


def _write(script: Path, address: Path) -> None:
    words = [sys.executable, "-I", "-S", "-c", _ASK, str(address)]
    lines = [
        "#!/bin/sh",
        '[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0',
        "exec " + " ".join(shlex.quote(word) for word in words),
    ]
    fd = os.open(script, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o700)
    with os.fdopen(fd, "w") as file:
        file.write("\n".join(lines) + "\n")
