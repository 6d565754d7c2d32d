"""The first process of the container: one child per behaviour, and an HTTP server to ask them.

    python3 -m workloads.runner [--port N] [NAME…]

Without names, all behaviours that the container allows; ``none`` is the server alone.

    GET /ready            200 once every behaviour is set up
    GET /observe          the answers of all behaviours, as JSON; asked once, then remembered
    GET /identity         what the container knows of its pod, read now
    GET /print?text=…     a line on standard output;  &stream=stderr on standard error
    GET /allocate?mib=N   take memory (to be killed for it)
    GET /exit?code=N      end the container
    GET /health           200, or 503 after /health?set=503

SIGTERM ends it with status 7.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from . import (
    channels,
    files,
    identity,
    layer,
    limits,
    mapped,
    memory,
    network,
    processes,
    systemv,
    timing,
)
from .behaviour import REGISTRY, Behaviour, scratch

MODULES = (
    channels,
    files,
    identity,
    layer,
    limits,
    mapped,
    memory,
    network,
    processes,
    systemv,
    timing,
)
"""Importing them registers what they define."""

BEHAVIOURS = REGISTRY
"""Every behaviour by its name."""


SIGTERM_STATUS = 7
SET_UP_TIMEOUT = 60.0
OBSERVE_TIMEOUT = 30.0


class Worker:
    """A behaviour in a process of its own, at the other end of a socket pair."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answer: object = None
        self._lock = threading.Lock()
        self._ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self._ours.close()
            try:
                _serve(REGISTRY[name](), theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._lines = self._ours.makefile("r")

    def wait_ready(self) -> str:
        """Until it is set up; what went wrong, or nothing."""
        self._ours.settimeout(SET_UP_TIMEOUT)
        message = json.loads(self._lines.readline() or '"ended without a word"')
        return "" if message == "ready" else f"{self.name} could not be set up: {message}"

    def observe(self) -> object:
        """The behaviour's answer."""
        with self._lock:
            if self.answer is None:
                self._ours.settimeout(OBSERVE_TIMEOUT)
                try:
                    self._ours.sendall(b"observe\n")
                    self.answer = json.loads(self._lines.readline() or '"the process is gone"')
                except OSError as error:
                    self.answer = f"no answer from the process: {error}"
            return self.answer


def _serve(instance: Behaviour, channel: socket.socket) -> None:
    """The child: set up, then answer for as long as the parent lives."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stream = channel.makefile("rw")

    def say(value: object) -> None:
        stream.write(json.dumps(value) + "\n")
        stream.flush()

    try:
        instance.set_up()
    except Exception:  # noqa: BLE001  (whatever it is, the test shall show it)
        say(traceback.format_exc())
        return
    say("ready")
    for _ in stream:
        try:
            say(instance.observe())
        except Exception:  # noqa: BLE001
            say(traceback.format_exc())


class Handler(BaseHTTPRequestHandler):
    """The HTTP interface; see the module."""

    workers: tuple[Worker, ...] = ()
    health = 200

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        match url.path:
            case "/ready":
                self._answer(200, "ready")
            case "/observe":
                self._answer(200, {worker.name: worker.observe() for worker in self.workers})
            case "/identity":
                self._answer(200, identity.read())
            case "/print":
                print(query["text"], file=getattr(sys, query.get("stream", "stdout")), flush=True)
                self._answer(200, "printed")
            case "/allocate":
                held.append(b"\1" * (int(query["mib"]) << 20))
                self._answer(200, "allocated")
            case "/health":
                Handler.health = int(query.get("set", Handler.health))
                self._answer(Handler.health, Handler.health)
            case "/exit":
                self._answer(200, "leaving")
                os._exit(int(query["code"]))
            case _:
                self._answer(404, "no such path")

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Standard output belongs to /print."""


class Server(ThreadingHTTPServer):
    """Bound to every address: the pod's address changes under it."""

    daemon_threads = True
    request_queue_size = 64


held: list[bytes] = []


def _may_run(kind: type[Behaviour]) -> bool:
    """Whether this container allows the behaviour."""
    if kind.limit or (kind.root_only and os.geteuid() != 0):
        return False
    if kind.needs and kind.needs not in os.environ:
        return False
    return not (kind.writes_image and not os.access("/etc", os.W_OK))


def _end(_number: int, _frame: object) -> None:
    print("ending on SIGTERM", flush=True)
    os._exit(SIGTERM_STATUS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    print("first line", flush=True)
    names = arguments.names or [name for name, kind in REGISTRY.items() if _may_run(kind)]
    if names == ["none"]:
        names = []
    workers = tuple(Worker(name) for name in names)
    failures = [failure for worker in workers if (failure := worker.wait_ready())]
    if failures:
        sys.exit("\n".join(failures))
    signal.signal(signal.SIGTERM, _end)
    Handler.workers = workers
    server = Server(("0.0.0.0", arguments.port), Handler)  # noqa: S104
    (Path(scratch()) / "ready").write_text("ready\n")
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
