"""The node daemon: sockets, signals and the parts, put together."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cri import mptcp, systemd
from cri.annotations import Defaults
from cri.collecting import collect
from cri.config import Settings
from cri.health import Health
from cri.intercept import Interceptor
from cri.prefetch.prefetcher import Limits
from cri.relay import Relay
from cri.rpc import RpcError
from cri.runtime import Options
from cri.runtime_client import RuntimeClient
from cri.sockets import listen
from cri.store import Store
from shim.errors import Refused

log = logging.getLogger("podthaw.daemon")

_THREADS = 32

_PROBE = 2.0
"""Seconds within which containerd must answer to be called ready."""


class Daemon:
    """One ``podthaw proxy``: prepared first, which fails with a clear error, then run."""

    def __init__(
        self,
        settings: Settings,
        *,
        config: Path,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._config = config
        self._listener: socket.socket | None = None
        self._lock = -1

    def prepare(self) -> None:
        """Everything that can be wrong with the node is found here.

        Raises:
            Refused: what is wrong, in a sentence.
        """
        settings = self._settings
        check_containerd_socket(Path(settings.containerd))
        make_private(settings.run)
        self._lock = lock(settings.run / "proxy.lock")
        link_runtime(settings)
        self._listener = systemd.inherited_listener(self._environment)
        if self._listener is None:
            self._listener = listen(Path(settings.socket))

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then lets the calls in flight end."""
        assert self._listener is not None  # noqa: S101  # prepare() was called
        settings = self._settings
        loop = asyncio.get_running_loop()
        # Threads that hang on a file system that is gone must not use up what others need.
        loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        client = RuntimeClient(settings.containerd)
        interceptor = Interceptor(self._options(), Store(settings.store), client)
        try:
            await interceptor.start()
        except (OSError, Refused) as error:
            log.warning("what an earlier run left cannot be read, ordinary pods start: %s", error)
        relay = Relay(settings.containerd, interceptor, max_message=settings.max_message)
        health = Health(
            {
                "containerd": lambda: containerd_problem(client),
                "store": StoreProbe(settings.store).problem,
            }
        )
        await relay.serve(self._listener)
        await self._serve_health(health)
        tidying = asyncio.ensure_future(interceptor.keep_tidy())
        watching = asyncio.ensure_future(self._keep_watchdog())
        collecting = asyncio.ensure_future(collect(self._program()))
        log.info(
            "serving %s in front of %s",
            settings.socket,
            settings.containerd,
            extra={"fields": {"files": [str(path) for path in settings.files]}},
        )
        systemd.notify("READY=1", self._environment)
        await stopping.wait()
        log.info("stopping, %d calls in flight", relay.calls)
        systemd.notify("STOPPING=1", self._environment)
        await relay.stop(settings.stop_timeout)
        tidying.cancel()
        await _within(settings.stop_timeout, interceptor.stop)
        watching.cancel()
        collecting.cancel()
        await health.stop()
        client.close()
        await asyncio.gather(tidying, watching, collecting, return_exceptions=True)
        log.info("stopped")

    def _options(self) -> Options:
        settings = self._settings
        return Options(
            run=settings.run,
            state=settings.state,
            handlers=settings.handlers,
            defaults=Defaults(on_failure=settings.on_failure, tcp=settings.tcp),
            restore_timeout=settings.restore_timeout,
            runtime=settings.runtime,
            criu=settings.criu,
            cuda=settings.cuda,
            capture=(*self._program(), "capture"),
            containerd_state=settings.containerd_state,
            ahead=Limits(
                mode=settings.prefetch,
                bandwidth=settings.prefetch_bandwidth,
                memory=settings.prefetch_memory,
            ),
            has_mptcp=mptcp.is_available(),
        )

    def _program(self) -> tuple[str, ...]:
        """This same program, or this package when it was started as a module."""
        program = Path(sys.argv[0])
        ours = [str(program)] if program.name == "podthaw" else [sys.executable, "-m", "cri"]
        return (*ours, "--config", str(self._config.absolute()))

    async def _serve_health(self, health: Health) -> None:
        address = self._settings.health
        if not address:
            return
        try:
            await health.serve(address)
        except (OSError, Refused) as error:  # pods matter more than probes
            log.warning("no health endpoint at %s: %s", address, error)

    async def _keep_watchdog(self) -> None:
        interval = systemd.watchdog_interval(self._environment)
        while interval is not None:
            systemd.notify("WATCHDOG=1", self._environment)
            await asyncio.sleep(interval)


async def _within(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work()


async def containerd_problem(client: RuntimeClient) -> str:
    """Why containerd's CRI does not answer, or an empty text."""
    try:
        async with asyncio.timeout(_PROBE):
            await client.version()
    except TimeoutError:
        return f"no answer within {_PROBE:g} s"
    except RpcError as error:
        return error.message
    return ""


class StoreProbe:
    """Looks whether the store answers, in one thread however often it is asked."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._looking: asyncio.Future[None] | None = None

    async def problem(self) -> str:
        """Why snapshots cannot be read, or an empty text. A store that is not there is empty."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(asyncio.to_thread(self._list))
        try:
            async with asyncio.timeout(_PROBE):
                await asyncio.shield(self._looking)
        except TimeoutError:
            return f"{self._store}: no answer within {_PROBE:g} s"
        except OSError as error:
            return f"{self._store}: {error.strerror}"
        return ""

    def _list(self) -> None:
        with suppress(FileNotFoundError), os.scandir(self._store) as entries:
            next(entries, None)


def check_containerd_socket(path: Path) -> None:
    """Lets a socket that is not there yet pass: containerd may start later.

    Raises:
        Refused: something else is in its place.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        log.warning("containerd's socket %s is not there yet", path)
        return
    except OSError as error:
        raise Refused(f"containerd's socket {path} cannot be looked at: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a file"
        raise Refused(f"containerd's socket {path}: wanted a unix socket, found {kind}")


def make_private(path: Path) -> None:
    """Make the run directory; one that is there must be ours, and nobody else's to write to.

    Whoever could write there could have root run a program of theirs as the OCI runtime.

    Raises:
        Refused: it cannot be made, or belongs to somebody else.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise Refused(f"{path} cannot be made: {error.strerror}") from None
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Refused(
            f"the run directory {path} belongs to user {status.st_uid} with mode "
            f"{stat.S_IMODE(status.st_mode):04o}: wanted user {os.geteuid()} and mode 0700"
        )


def lock(path: Path) -> int:
    """Holds the node's only daemon; the descriptor must stay open.

    Raises:
        Refused: another daemon runs, or the file cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise Refused(f"{path} cannot be made: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise Refused(f"podthaw proxy runs already, as process {other or '?'}") from None
    with suppress(OSError):  # it only helps the message above, and the disk may be full
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def link_runtime(settings: Settings) -> None:
    """Points ``<run>/runtime`` at the OCI runtime, for the shim.

    Raises:
        Refused: there is no such program, or the link cannot be made.
    """
    found = shutil.which(settings.runtime)
    if found is None:
        raise Refused(f'runtime: wanted an OCI runtime, found no program "{settings.runtime}"')
    fresh = settings.run / f".runtime.{os.getpid()}"
    link = settings.run / "runtime"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(found)
        fresh.replace(link)
    except OSError as error:
        raise Refused(f"{link} cannot be made: {error.strerror}") from None
