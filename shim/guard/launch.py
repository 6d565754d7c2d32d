"""The starter's side of the agent: start it, wait for it, end it, have it pause."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from shim.errors import Unfit
from shim.guard import Agent
from shim.memory import MOUNT_POINT

_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from shim.guard import agent; sys.exit(agent.main(sys.argv[1:]))"
)


def start(
    container: str, cgroups: Sequence[str], *, run: str, log: str, name: str = MOUNT_POINT
) -> Agent:
    """See :func:`shim.guard.start`; ``name``: where the processes have mapped the file from."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    orders, order = os.pipe()
    answer, answers = os.pipe()
    try:
        command = [sys.executable, "-I", "-S", "-c", _START, root, str(orders), str(answers)]
        pid = os.posix_spawn(
            sys.executable,
            [*command, run, container, log, name, *cgroups],
            {},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
                # To itself: then it is not closed at exec.
                (os.POSIX_SPAWN_DUP2, orders, orders),
                (os.POSIX_SPAWN_DUP2, answers, answers),
            ],
            setsid=True,
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE],
            setsigmask=[],
        )
    except OSError as error:
        for fd in (order, answer):
            os.close(fd)
        raise Unfit(f"the process that guards its memory cannot start: {error}") from error
    finally:
        os.close(orders)
        os.close(answers)
    return Agent(pid=pid, started=_started(pid), order=order, answer=answer)


def ready(agent: Agent, deadline: float) -> None:
    """See :meth:`shim.guard.Agent.ready`."""
    try:
        os.write(agent.order, b"restored\n")
        poll = select.poll()
        poll.register(agent.answer, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise Unfit("the process that guards its memory was not ready in time")
        answer = os.read(agent.answer, 4096).decode(errors="replace").strip()
    except OSError as error:
        raise Unfit(f"the process that guards its memory is gone: {error.strerror}") from error
    finally:
        os.close(agent.order)
        os.close(agent.answer)
    if answer != "ready":
        raise Unfit(answer or "the process that guards its memory has ended")


def stop(pid: int, started: int) -> None:
    """See :func:`shim.guard.stop`."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _started(pid) == started:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            _reap(pid)
    finally:
        os.close(handle)


@contextmanager
def paused(run: str, container: str) -> Iterator[None]:
    """See :func:`shim.guard.paused`."""
    try:
        fd = os.open(f"{run}/guards/{container}.lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _reap(pid: int) -> None:
    """Take its status if it is a child of ours."""
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _started(pid: int) -> int:
    """Start of a process in clock ticks after boot; 0 when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0
