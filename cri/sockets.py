"""Unix sockets to listen on."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from shim.errors import Refused

_BACKLOG = 128


def listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, 0600 from the first moment, in the place of a stale one.

    Raises:
        Refused: something else than a dead daemon's socket is there, or it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
            raise Refused(f"socket {path}: there is something else than a socket")
        if answers(path):
            raise Refused(f"socket {path}: another process serves it")
        fresh = path.with_name(f".{os.getpid()}")
        fresh.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            mask = os.umask(0o177)
            try:
                listener.bind(str(fresh))
            finally:
                os.umask(mask)
            listener.listen(_BACKLOG)
            fresh.replace(path)  # whoever finds the path finds it listening
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise Refused(f"socket {path} cannot be made: {error.strerror or error}") from None


def answers(path: Path) -> bool:
    """Whether a process listens at a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
