# ruff: noqa: INP001 - scripts of an image, no package
"""An HTTP server on port 8080 that answers every GET with a function's value, as JSON."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer


def serve(answer: Callable[[], object], end: Callable[[], None]) -> None:
    """Serve until SIGTERM; then call ``end`` and exit with 3."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer()).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

    def stop(*_: object) -> None:
        end()
        print("ending", flush=True)
        os._exit(3)

    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    HTTPServer(("", 8080), Handler).serve_forever()
