"""One run of ``criu dump``: started, followed, and its files read while nothing moves."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from shim import rootfs, snapshot
from shim.container import start_time
from shim.errors import PodthawError
from shim.handshake import Handshake
from shim.leftovers import Criu, stop

OUTPUT = "criu.out"
"""In the work folder: what CRIU prints outside its log."""

_GATE = 'read -r go && exec "$@" < /dev/null'
"""Becomes CRIU when it is told to; ends when whoever should tell it is gone."""


class CaptureFailed(PodthawError):
    """The dump failed; the container runs on as before."""

    kind = "capture-failed"


@dataclass
class Files:
    """The files of a container, read into the stage."""

    overlay: rootfs.Overlay
    mount_points: Sequence[str]
    shared: Path | None
    """The folder behind the container's /dev/shm."""
    stage: Path
    has_rootfs: bool = False
    has_shm: bool = False
    seconds: float = 0.0

    def read(self, deadline: float) -> None:
        """Read them now; ``deadline`` in seconds of the monotonic clock."""
        begin = time.monotonic()

        def in_time() -> None:
            if time.monotonic() > deadline:
                raise too_late()

        target = self.stage / snapshot.ROOTFS
        self.has_rootfs = rootfs.pack(self.overlay, target, self.mount_points, check=in_time) > 0
        if self.shared is not None:
            target = self.stage / snapshot.SHM
            self.has_shm = rootfs.pack_folder(self.shared, target, check=in_time) > 0
        self.seconds = time.monotonic() - begin


def too_late() -> CaptureFailed:
    """The error of a dump that takes longer than it may."""
    return CaptureFailed(
        "the capture took longer than it may, the container runs on: give it more --timeout"
    )


class Run:
    """A dump under way."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.criu = Criu(pid=process.pid, started=start_time(process.pid) or 0)

    @property
    def status(self) -> int:
        """Exit status of CRIU once it has ended; negative: the signal that killed it."""
        return self._process.wait()

    def follow(
        self, handshake: Handshake, while_frozen: Callable[[], None], deadline: float
    ) -> None:
        """Wait for the end of the dump, doing ``while_frozen`` when everything is saved.

        Raises CaptureFailed past ``deadline`` (seconds of the monotonic clock), and what
        ``while_frozen`` raises.
        """
        pidfd = os.pidfd_open(self._process.pid)
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            poller.register(handshake.fileno(), select.POLLIN)
            while True:
                left = deadline - time.monotonic()
                ready = [fd for fd, _ in poller.poll(max(0.0, left) * 1000)]
                if not ready:
                    raise too_late()  # noqa: TRY301 - the handler below closes the handshake
                if pidfd in ready:
                    self._process.wait()
                    return
                poller.unregister(handshake.fileno())
                handshake.accept()
                while_frozen()
                handshake.answer()
        except BaseException:
            handshake.refuse()
            raise
        finally:
            os.close(pidfd)


@contextmanager
def started(
    arguments: Sequence[str], work: Path, announce: Callable[[Criu], None] = lambda _: None
) -> Iterator[Run]:
    """Run CRIU, leading a session of its own and deaf to a file size limit; stopped at the end.

    ``announce`` is told of the process before CRIU begins. Were this process killed between the
    two, somebody who does not know of CRIU would undo a dump that goes on: it would take the
    freezer of the undoing for one that it found, and leave the container frozen.

    Python ignores SIGXFSZ and, with ``restore_signals`` off, so does what it starts: a write
    beyond the limit fails with EFBIG instead (:func:`shim.leftovers.stop`).
    """
    with (work / OUTPUT).open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            restore_signals=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    run = Run(process)
    gate = cast("IO[bytes]", process.stdin)
    try:
        with contextlib.suppress(BrokenPipeError), gate:
            announce(run.criu)
            gate.write(b"go\n")
        yield run
    finally:
        if process.poll() is None:
            stop(run.criu)
        process.wait()
