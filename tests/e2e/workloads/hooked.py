"""A program with hooks: what it was told, it writes down and tells.

    GET /ready            200
    GET /told             the list of what it was told, as JSON
    POST /…               told; /bad… is answered with 500, /hang… never

SIGUSR1 is told as "USR1". /tmp/told, which a program in the container may append to, is part of the
list.
"""

from __future__ import annotations

import json
import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOLD = Path("/tmp/told")


def tell(what: str) -> None:
    with TOLD.open("a") as file:
        file.write(f"{what}\n")


class Handler(BaseHTTPRequestHandler):
    """The HTTP interface; see the module."""

    def do_GET(self) -> None:
        self._answer(200, "ready" if self.path == "/ready" else TOLD.read_text().split())

    def do_POST(self) -> None:
        tell(f"POST{self.path}")
        if self.path.startswith("/hang"):
            time.sleep(600)
        self._answer(500 if self.path.startswith("/bad") else 200, "told")

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Standard output is for the first line."""


class Server(ThreadingHTTPServer):
    """A hook that hangs does not keep it from its other answers."""

    daemon_threads = True


def main() -> None:
    print("first line", flush=True)
    TOLD.write_text("")
    signal.signal(signal.SIGUSR1, lambda *_: tell("USR1"))
    Server(("0.0.0.0", 8080), Handler).serve_forever()  # noqa: S104


if __name__ == "__main__":
    main()
