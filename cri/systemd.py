"""systemd's protocols for a service: inherited sockets, notifications, the watchdog."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from shim.errors import Refused

_FIRST = 3
"""The first inherited file descriptor (sd_listen_fds)."""


def inherited_listener(environment: Mapping[str, str]) -> socket.socket | None:
    """The listening unix socket that systemd has opened for this process, if it has.

    Raises:
        Refused: the unit hands over something else.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environment.get("LISTEN_FDS", "")
    if count != "1":
        raise Refused(f"systemd handed over {count} sockets, wanted 1: one ListenStream= of a unit")
    os.set_inheritable(_FIRST, False)  # noqa: FBT003
    try:
        listener = socket.socket(fileno=_FIRST)
    except OSError as error:
        raise Refused(f"what systemd handed over is not a socket: {error.strerror}") from None
    listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM or not listening:
        raise Refused("systemd handed over another socket than a ListenStream= with a path")
    return listener


def notify(message: str, environment: Mapping[str, str]) -> None:
    """Tells the service manager, such as ``READY=1``; does nothing without one."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Not blocking: a manager that does not read must not stop the daemon.
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_UNIX, kind) as to:
        try:
            to.sendto(message.encode(), address)
        except OSError:
            return  # the manager is gone or restarting: nothing to be done about it


def watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Seconds between two signs of life, half of what the unit allows; None when unwatched."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 2_000_000 if text.isdigit() and int(text) else None
