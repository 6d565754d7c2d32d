"""``/healthz`` and ``/readyz`` over HTTP/1.1: just what a probe needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from cri.sockets import listen

Check = Callable[[], Awaitable[str]]
"""A condition of readiness: an empty text, or what is wrong."""

_LIMIT = 4096  # octets of a request's head
_PATIENCE = 5.0  # seconds that a client has to send it


class Health:
    """Healthy means that the event loop turns; ready, that every check is content."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._server: asyncio.Server | None = None
        self._socket: Path | None = None

    async def serve(self, address: str) -> None:
        """Listens on the path of a unix socket, or ``HOST:PORT``.

        Raises:
            OSError, Refused: that is not possible.
        """
        if address.startswith("/"):
            self._socket = Path(address)
            self._server = await asyncio.start_unix_server(
                self._client, sock=listen(self._socket), limit=_LIMIT
            )
        else:
            host, _, port = address.rpartition(":")
            self._server = await asyncio.start_server(
                self._client, host=host.strip("[]"), port=int(port), limit=_LIMIT
            )

    async def stop(self) -> None:
        """Listens no more."""
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    async def answer(self, target: str) -> tuple[int, str]:
        """Status and text for a path."""
        path = target.partition("?")[0]
        if path == "/healthz":
            return 200, "ok\n"
        if path != "/readyz":
            return 404, "there are /healthz and /readyz\n"
        status, lines = 200, []
        for name, check in self._checks.items():
            problem = await check()
            if problem:
                status = 503
            lines.append(f"[-] {name}: {problem}\n" if problem else f"[+] {name}\n")
        return status, "".join(lines)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            status, text = (
                await self.answer(target)
                if method in {"GET", "HEAD"}
                else (405, "only GET and HEAD\n")
            )
            body = text.encode()
            writer.write(
                f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
                f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + (b"" if method == "HEAD" else body)
            )
            await writer.drain()
        except (OSError, ValueError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # not HTTP, or gone: there is nobody to tell
        finally:
            writer.close()


_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
