"""The relay: takes connections in containerd's stead and gives each a connection to containerd."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys

from cri.rpc import Interceptor
from cri.session import Rules, Session
from cri.side import Side

log = logging.getLogger("podthaw.relay")

_BACKLOG = 128

_FLUSH = 1.0
"""Seconds for what is written to reach a client."""


class Relay:
    """Serves on a listening socket until it is stopped."""

    def __init__(
        self, upstream: str, interceptor: Interceptor | None = None, *, max_message: int = 16 << 20
    ) -> None:
        hooks = interceptor.hooks() if interceptor is not None else {}
        filters = interceptor.filters() if interceptor is not None else {}
        self._rules = Rules(upstream, hooks, filters, max_message)
        self._sessions: set[Session] = set()
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._reachable = True
        self._idle = asyncio.Event()
        self._idle.set()

    async def serve(self, listener: socket.socket) -> None:
        """Begins to accept; ``listener`` is a listening unix socket, which this takes over.

        Its file stays when the relay stops: it may be another process's to serve next.
        """
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 13):
            self._server = await loop.create_unix_server(
                self._accept, sock=listener, backlog=_BACKLOG, cleanup_socket=False
            )
        else:
            self._server = await loop.create_unix_server(
                self._accept, sock=listener, backlog=_BACKLOG
            )

    @property
    def calls(self) -> int:
        """How many calls are in flight."""
        return sum(len(session.open) for session in self._sessions)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._sessions)

    def _accept(self) -> Side:
        session = Session(self._rules, self._over, self._reached)
        self._sessions.add(session)
        self._idle.clear()
        if self._stopping:
            session.close()
        else:
            session.begin()
        return session.client

    def _reached(self, error: OSError | None) -> None:
        """Logs when containerd goes and when it comes back, not for each client that tries."""
        where = self._rules.upstream
        if error is None and not self._reachable:
            log.info("containerd answers again at %s", where)
        elif error is not None and self._reachable:
            log.warning("containerd does not answer at %s: %s", where, error.strerror or error)
        self._reachable = error is None

    def _over(self, session: Session) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self._idle.set()

    async def stop(self, grace: float) -> None:
        """Accepts no more, lets the calls in flight end for ``grace`` seconds, then closes."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(0)  # what was just accepted appears
        for session in tuple(self._sessions):
            session.drain()
        if not await self._wait(grace):
            log.warning("stopped with %d calls in flight after %g s", self.calls, grace)
        for session in tuple(self._sessions):
            session.close()
        if not await self._wait(_FLUSH):
            for session in tuple(self._sessions):
                session.abort()
        await asyncio.sleep(0)

    async def _wait(self, seconds: float) -> bool:
        """Waits until no client is connected; False when the time is up."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
