"""Programs run in the node's namespaces without the Docker engine between, and its clients.

The engine takes longer to start a program than some of the programs that are measured; entering
the namespaces takes two milliseconds. Needs root on this machine, as the end-to-end tests do.
"""

from __future__ import annotations

import ctypes
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.node.node import Node

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MeasurementError(Exception):
    """Something could not be measured; the text says why."""


@dataclass(frozen=True)
class Ran:
    """A command that ended well."""

    seconds: float
    output: str


class Inside:
    """Runs programs in a node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.pid = node.pid

    def run(self, command: Sequence[str], *, check: bool = True, timeout: float = 300) -> Ran:
        """Run a command; how long it took. Raises MeasurementError when it fails."""
        entered = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "--", *command]
        begun = time.perf_counter()
        done = subprocess.run(
            entered,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={"PATH": _PATH},
        )
        seconds = time.perf_counter() - begun
        output = (done.stdout + done.stderr).decode(errors="replace")
        if check and done.returncode:
            tail = output.strip()[-600:]
            raise MeasurementError(f"{' '.join(command)[:200]}: status {done.returncode}: {tail}")
        return Ran(seconds, output)

    def shell(self, script: str, *arguments: str, check: bool = True, timeout: float = 300) -> Ran:
        """Run a script of the shell with these arguments as ``$1`` and so on."""
        return self.run(["sh", "-c", script, "sh", *arguments], check=check, timeout=timeout)

    def path(self, inside: str) -> Path:
        """The path by which this machine reaches a file inside."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")


class Client:
    """Asks a server over HTTP from inside a network namespace, by a thread that lives there."""

    def __init__(self, namespace: Path, host: str, port: int) -> None:
        self.address = (host, port)
        self._namespace = namespace
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def ask(self, path: str, *, timeout: float = 300) -> str:
        """The body of the first answer to a GET; a refused connection is tried again."""

        def asking() -> str:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    return self._get(path, timeout)
                except (ConnectionError, TimeoutError, OSError) as error:
                    if time.monotonic() > deadline:
                        raise MeasurementError(
                            f"no answer from {self.address} in {timeout:.0f} s: {error}"
                        ) from error
                    time.sleep(0.002)

        future: Future[Any] = Future()
        self._tasks.put((asking, future))
        return str(future.result(timeout + 10))

    def close(self) -> None:
        """End the thread."""
        self._tasks.put(None)
        self._thread.join(5)

    def _get(self, path: str, timeout: float) -> str:
        with socket.create_connection(self.address, timeout=timeout) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while more := connection.recv(1 << 16):
                answer += more
        head, end, body = answer.partition(b"\r\n\r\n")
        if not end or b" 200 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(f"no whole answer: {answer[:80]!r}")
        return body.decode()

    def _live(self) -> None:
        trouble = _enter(self._namespace)
        while (task := self._tasks.get()) is not None:
            action, future = task
            if trouble is not None:
                future.set_exception(trouble)
                continue
            try:
                future.set_result(action())
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                future.set_exception(error)


def _enter(namespace: Path) -> OSError | None:
    """Let this thread live in a network namespace; why it cannot."""
    try:
        with namespace.open("rb") as file:
            if _libc.setns(file.fileno(), _CLONE_NEWNET):
                number = ctypes.get_errno()
                return OSError(number, f"setns: {os.strerror(number)}")
    except OSError as error:
        return error
    return None
