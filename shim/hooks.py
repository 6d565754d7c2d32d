"""Hooks of a workload: how it is told that it will be captured, or that it was restored.

    http:PORT/PATH    POST without a body to the pod; a status of 2xx is success
    exec:COMMAND      a program inside the container, its words split as a shell does, but run
                      without a shell; exit status 0 is success
    signal:NAME       a signal to the container's first process, which must handle it

Whoever may create a pod writes these texts: each must match a narrow pattern, a request goes to
the pod's own address only and follows no redirection, and a program runs inside the container as
the container's user. docs/decisions/hooks.md says what happens when.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shim.errors import Unfit

SECONDS = 30.0
"""How long a hook after a restore may take, within the time that the restore has."""

HOST = "127.0.0.1"
"""Where a pod is asked that has the node's network."""

WANTED = "http:PORT/PATH, exec:COMMAND or signal:USR1"
"""What a hook may look like, for messages."""

_SIGTIMEDWAIT = {"x86_64": "128", "aarch64": "137"}.get(os.uname().machine)
"""The number of the system call in which sigwait waits."""
_TRIES = 50

SIGNALS = {name: signal.Signals[f"SIG{name}"] for name in ("HUP", "USR1", "USR2", "WINCH")}
"""Signals that mean nothing to the kernel: what they mean, the program says."""

_HTTP = re.compile(r"([0-9]{1,5})(/[\x21-\x7e]{0,1023})?")
_COMMAND = re.compile(r"[^\x00-\x1f\x7f]{1,4096}")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r|$)")
_MAX_HEAD = 64 << 10  # bytes of an answer's headers
_MAX_BODY = 64 << 10  # bytes that are read for politeness
_POLITE = 1.0  # seconds for that
_SHOWN = 200  # characters of what a program printed


@dataclass(frozen=True)
class Hook:
    """One hook; only :func:`parse` makes them of what somebody typed."""

    kind: Literal["http", "exec", "signal"]
    argument: str
    """``PORT/PATH``, the command, or the signal's name without SIG."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The container that a hook is for."""

    address: str
    """The pod's IP address, or :data:`HOST`."""
    pid: int
    """Its first process as seen from here."""
    is_first: Callable[[], bool]
    """Whether ``pid`` still is that process."""
    execute: Callable[[list[str], float], tuple[int, str]]
    """Runs a program in the container until a deadline of :func:`time.monotonic`: its exit status
    and the end of what it printed. Raises TimeoutError, or Unfit when it could not be run."""


def parse(text: str) -> Hook | None:
    """The hook that the text means; None when it means none."""
    kind, colon, argument = text.partition(":")
    if not colon:
        return None
    if kind == "http":
        match = _HTTP.fullmatch(argument)
        return Hook("http", argument) if match and 0 < int(match[1]) < 1 << 16 else None
    if kind == "exec":
        return Hook("exec", argument) if _words(argument) else None
    if kind == "signal":
        name = argument.removeprefix("SIG")
        return Hook("signal", name) if name in SIGNALS else None
    return None


def run(hook: Hook, place: Place, deadline: float) -> None:
    """Carry out a hook until a deadline of :func:`time.monotonic`.

    Raises Unfit with a sentence that begins with the hook; ``detail`` is the end of what a
    program printed.
    """
    begun = time.monotonic()
    try:
        if hook.kind == "http":
            _post(hook, place.address, deadline)
        elif hook.kind == "exec":
            _execute(hook, place, deadline)
        else:
            _send(hook, place)
    except TimeoutError:
        waited = max(0.0, deadline - begun)
        raise Unfit(f"{hook} was not done within {waited:.3g} seconds") from None


def _words(command: str) -> list[str]:
    """The program and its arguments; empty when the text is no command."""
    if not _COMMAND.fullmatch(command):
        return []
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation without its end
        return []
    # A name like an option would be one to the runtime that executes it.
    return words if words and words[0] and not words[0].startswith("-") else []


def _post(hook: Hook, address: str, deadline: float) -> None:
    """A request with one deadline for all of it, which no slow server can stretch."""
    port, _, path = hook.argument.partition("/")
    host = f"[{address}]" if ":" in address else address
    request = (
        f"POST /{path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: podthaw\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(_left(deadline))
            connection.connect((address, int(port)))
            connection.sendall(request.encode("ascii"))
            code = _answer(hook, connection, deadline)
            _read_on(connection, min(deadline, time.monotonic() + _POLITE))
    except TimeoutError:
        raise
    except OSError as error:
        raise Unfit(f"{hook} was not answered at {address}: {error.strerror or error}") from error
    if code // 100 != 2:
        raise Unfit(f"{hook} was answered with status {code}, wanted 2xx")


def _answer(hook: Hook, connection: socket.socket, deadline: float) -> int:
    """The status of the final answer, once its headers are complete."""
    data = b""
    while True:
        head, end, rest = data.partition(b"\r\n\r\n")
        if end:
            match = _STATUS.match(head)
            if match is None:
                raise Unfit(f"{hook} was answered by something that is not HTTP")
            if match[1][:1] != b"1":
                return int(match[1])
            data = rest
            continue
        if len(data) > _MAX_HEAD:
            raise Unfit(f"{hook} was answered with more than {_MAX_HEAD} bytes of headers")
        connection.settimeout(_left(deadline))
        chunk = connection.recv(4096)
        if not chunk:
            raise Unfit(f"{hook} was not answered: the connection was closed")
        data += chunk


def _read_on(connection: socket.socket, deadline: float) -> None:
    """Read the body for a while: a connection closed before looks like an error to the server."""
    read = 0
    with suppress(OSError):
        while read < _MAX_BODY:
            connection.settimeout(_left(deadline))
            chunk = connection.recv(4096)
            if not chunk:
                return
            read += len(chunk)


def _execute(hook: Hook, place: Place, deadline: float) -> None:
    _left(deadline)
    status, output = place.execute(_words(hook.argument), deadline)
    if status != 0:
        lines = [_printable(line) for line in output.splitlines() if line.strip()]
        last = f": {lines[-1][:_SHOWN]}" if lines else ""
        raise Unfit(f"{hook} ended with status {status}{last}", detail="\n".join(lines[-10:]))


def _send(hook: Hook, place: Place) -> None:
    number = SIGNALS[hook.argument]
    try:
        handle = os.pidfd_open(place.pid)
    except OSError as error:
        raise Unfit(f"{hook} has no receiver: the first process is gone") from error
    try:
        # From here on the descriptor means one process, whatever becomes of its number.
        if not place.is_first():
            raise Unfit(f"{hook} has no receiver: the first process is gone")
        if not _handles(place.pid, number):
            raise Unfit(
                f"{hook} would be lost: the container's first process neither catches "
                f"SIG{hook.argument} nor waits for it"
            )
        signal.pidfd_send_signal(handle, number)
    except OSError as error:
        raise Unfit(f"{hook} could not be sent: {error.strerror}") from error
    finally:
        os.close(handle)


def _handles(pid: int, number: int) -> bool:
    """Whether a process catches a signal, or all its threads block it or wait for it.

    Otherwise the kernel drops it without a word, as it does for the first process of a PID
    namespace, or ends the process.
    """
    bit = 1 << (number - 1)
    if _masks(f"/proc/{pid}")["SigCgt"] & bit:
        return True
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            if not _holds(f"/proc/{pid}/task/{thread}", bit):
                return False
    return True


def _holds(folder: str, bit: int) -> bool:
    """Whether a thread blocks a signal or waits for it."""
    for _ in range(_TRIES):
        # While a thread is in sigwait, what it waits for does not count as blocked.
        if _masks(folder)["SigBlk"] & bit:
            return True
        call = Path(folder, "syscall").read_text().split()
        if call[0] != "running":
            return bool(_awaited(folder, call) & bit)
        time.sleep(0.001)  # it may be on its way into sigwait
    return False


def _masks(folder: str) -> dict[str, int]:
    lines = (line.partition(":") for line in Path(folder, "status").read_text().splitlines())
    return {name: int(value, 16) for name, _, value in lines if name in ("SigCgt", "SigBlk")}


def _awaited(folder: str, call: list[str]) -> int:
    """The signals that a thread waits for in rt_sigtimedwait, as a mask."""
    number, *arguments = call
    if number != _SIGTIMEDWAIT or not arguments:
        return 0
    with Path(folder, "mem").open("rb", buffering=0) as memory:
        memory.seek(int(arguments[0], 16))
        return int.from_bytes(memory.read(8), sys.byteorder)


def _printable(line: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in line)


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
