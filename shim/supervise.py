"""Run one program to its end or to a deadline, and never leave it behind.

The child stands in a process group of its own and is killed by the kernel when this process dies
(PR_SET_PDEATHSIG), so that no path of this program, not even SIGKILL, lets it go on alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import sys
import time
from contextlib import suppress

from shim.errors import Unfit

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class DeadlineError(Exception):
    """The program was still running at its deadline, and was killed."""


def die_with_parent(number: int) -> None:
    """Have the kernel send this signal to this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, such as CRIU's when runc is killed.

    What still runs when this process ends goes on to the next such process above.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_children() -> None:
    """Kill every child of this process, and the children that it gets by that, until none is left.

    With :func:`adopt_orphans` these are all descendants.
    """
    while children := _children():
        for pid in children:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        # In whatever order they end: the first process of a PID namespace does not end before the
        # others in it are reaped, such as one that was started there from outside.
        for _ in children:
            os.waitpid(-1, 0)


def _children() -> list[int]:
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children") as file:
            found += [int(word) for word in file.read().split()]
    return found


def run(
    program: str,
    arguments: list[str],
    deadline: float,
    *,
    environment: dict[str, str] | None = None,
    output: int | None = None,
) -> int:
    """Run a program and wait for it; returns its exit status (128 + signal when it was killed).

    ``deadline`` is on :func:`time.monotonic`'s clock. Standard input, output and error are this
    process's own, or ``output`` for the last two. Raises DeadlineError, Unfit when the program
    cannot be started; whatever is raised here or by a signal handler meanwhile, the program and
    its process group are gone then.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(program, arguments, environment or dict(os.environ), output, parent)
    status: int | None = None
    try:
        status = _wait(pid, deadline)
    finally:
        if status is None:
            kill_group(pid)
            os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == _CANNOT_START:
        raise Unfit(f"the program {program} cannot be started")
    return code if code >= 0 else 128 - code


def output_of(
    program: str, arguments: list[str], deadline: float, *, limit: int = 4096
) -> tuple[int, bytes]:
    """Run a program without input, as :func:`run` does: its exit status, the end of its output.

    What it prints is read all along, so it can neither fill a disk nor block; ``limit`` bytes
    are kept.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    status: int | None = None
    try:
        pid = os.fork()
        if pid == 0:
            _become(program, arguments, dict(os.environ), writer, parent, standard_input=nothing)
        try:
            kept = _read_until_end(pid, reader, deadline, limit)
            status = os.waitpid(pid, 0)[1]
        finally:
            if status is None:
                kill_group(pid)
                os.waitpid(pid, 0)
    finally:
        for one in (reader, writer, nothing):
            os.close(one)
    code = os.waitstatus_to_exitcode(status)
    if code == _CANNOT_START:
        raise Unfit(f"the program {program} cannot be started")
    return (code if code >= 0 else 128 - code), kept


def _read_until_end(pid: int, reader: int, deadline: float, limit: int) -> bytes:
    """Read until the process has ended, not until nobody can write any more."""
    kept = b""
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.register(reader, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineError
            ready = [number for number, _ in poll.poll(left * 1000)]
            # A pipe holds no more than this at once; what comes later is another process's.
            with suppress(BlockingIOError):
                kept = (kept + os.read(reader, 1 << 20))[-limit:]
            if handle in ready:
                return kept
    finally:
        os.close(handle)


_CANNOT_START = 227
"""Exit status of a child that could not become the program; runc and CRIU do not use it."""


def kill_group(pid: int) -> None:
    """Kill a process group made by :func:`run`, and its leader should it not lead it yet."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def ends_within(pid: int, seconds: float) -> bool:
    """Wait for a child to end, without taking its status; False when it goes on."""
    end = time.monotonic() + seconds
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while not poll.poll(max(0.0, (end - time.monotonic()) * 1000)):
            if time.monotonic() >= end:
                return False
    finally:
        os.close(handle)
    return True


def _wait(pid: int, deadline: float) -> int:
    if not ends_within(pid, deadline - time.monotonic()):
        raise DeadlineError
    return os.waitpid(pid, 0)[1]


def _become(
    program: str,
    arguments: list[str],
    environment: dict[str, str],
    output: int | None,
    parent: int,
    *,
    standard_input: int | None = None,
) -> None:
    """The child between fork and exec; never returns."""
    try:
        os.setpgid(0, 0)
        die_with_parent(signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if os.getppid() == parent:
            if standard_input is not None:
                os.dup2(standard_input, 0)
            if output is not None:
                os.dup2(output, 1)
                os.dup2(output, 2)
            os.execve(program, [program, *arguments], environment)  # noqa: S606
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
            sys.stderr.write(f"{program}: {error.strerror}\n")
            sys.stderr.flush()
    finally:
        os._exit(_CANNOT_START)
