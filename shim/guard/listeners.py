"""The listeners of a container's filters: found in its processes, taken, and closed there.

CRIU installs each filter in the process itself, so the kernel puts the listener's descriptor
there. The agent takes a duplicate (pidfd_getfd(2)) and has the process close its own, before that
becomes a descriptor which the program does not know, or which the next dump cannot dump.
"""

from __future__ import annotations

import ctypes
import os
import time

from shim.guard import maps, notice, ptrace

_PIDFD_GETFD = 438
_CLOSE = 3
_LINK = "anon_inode:"
_NAME = "seccomp notify"
_PATIENCE = 5.0  # seconds for threads to stop

_libc = ctypes.CDLL(None, use_errno=True)


class Listeners:
    """The duplicates that this process holds, each listener once."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def take(self, pid: int, fd: int) -> None:
        """Duplicate a process's descriptor; OSError when it is gone."""
        handle = os.pidfd_open(pid)
        try:
            found = int(_libc.syscall(_PIDFD_GETFD, handle, fd, 0))
            if found < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
        finally:
            os.close(handle)
        self._keep(found)

    def _keep(self, fd: int) -> None:
        """Put a descriptor in its place, or close it when we have that listener already.

        The kernel has an order of open files (kcmp(2)), so that a few of many are compared.
        """
        low, high = 0, len(self.held)
        while low < high:
            middle = (low + high) // 2
            order = notice.compare_files(os.getpid(), fd, self.held[middle])
            if order == 0:
                os.close(fd)
                return
            low, high = (low, middle) if order == 1 else (middle + 1, high)
        self.held.insert(low, fd)

    def drop(self, fd: int) -> None:
        """Forget a listener whose last process has ended."""
        self.held.remove(fd)
        os.close(fd)


def members(cgroups: list[str]) -> list[int]:
    """Processes of the container: those in its control group and the groups below it.

    A process is in the groups of every hierarchy; the first one that is there tells.
    """
    for top in cgroups:
        found: list[int] = []
        pending = [top]
        while pending:
            folder = pending.pop()
            try:
                with open(f"{folder}/cgroup.procs", "rb") as file:
                    found += [int(line) for line in file if line != b"0\n"]
                pending += [entry.path for entry in os.scandir(folder) if entry.is_dir()]
            except OSError:
                continue
        if found:
            return sorted(set(found))
    return []


def find(pid: int) -> list[int]:
    """Descriptors of a process that are listeners; none when it has ended."""
    found = []
    folder = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):
            link = os.readlink(f"{folder}/{name}")
            if link.startswith(_LINK) and _NAME in link:
                found.append(int(name))
    except OSError:
        return found
    return found


def is_filtered(status: bytes) -> bool:
    """Whether a process has a filter, by its /proc/PID/status."""
    return maps.number(status, b"Seccomp") == 2


def is_traced(status: bytes) -> bool:
    """Whether somebody traces it, as CRIU does until it lets the restored process go."""
    return maps.number(status, b"TracerPid") != 0


def collect(pid: int, listeners: Listeners) -> bool:
    """Take every listener of a process without touching it; whether there was one."""
    found = find(pid)
    for fd in found:
        try:
            listeners.take(pid, fd)
        except OSError:
            continue
    return bool(found)


def close_in(pid: int) -> None:
    """Have a process close its listeners, which must have been taken. Raises GoneError, BusyError.

    All its threads are held meanwhile, so that a number means one descriptor.
    """
    held: list[ptrace.Thread] = []
    try:
        hold_all(pid, held, time.monotonic() + _PATIENCE)
        one = next((thread for thread in held if thread.stands), held[0])
        for fd in find(pid):
            if one.call(_CLOSE, fd) != 0:
                raise ptrace.BusyError
    finally:
        for thread in held:
            thread.release()


def hold_all(pid: int, held: list[ptrace.Thread], end: float | None = None) -> None:
    """Hold every thread of a process, its first one first, appending to ``held``.

    A thread that waits in vfork(2) for a child does not stop, and touches no memory until that
    child, which has the same memory and is held too, lets it. Raises GoneError when the process has
    ended, and BusyError when a thread cannot be held; whoever is in ``held`` must be released then.
    """
    known = {thread.tid for thread in held}
    while True:
        try:
            tids = {int(name) for name in os.listdir(f"/proc/{pid}/task")}
        except OSError:
            raise ptrace.GoneError from None
        new = sorted(tids - known, key=lambda tid: (tid != pid, tid))
        if not new:
            return
        known.update(new)
        begun = []
        for tid in new:
            try:
                begun.append(ptrace.Thread(tid))
            except ptrace.GoneError:
                continue
            held.append(begun[-1])
        for thread in begun:
            try:
                _stop(thread, end)
            except ptrace.GoneError:
                held.remove(thread)


_VFORKS = (b"56", b"58", b"435")
"""clone, vfork, clone3."""


def _stop(thread: ptrace.Thread, end: float | None) -> None:
    while not thread.stop(time.monotonic() + 0.01):
        in_call = read(f"/proc/{thread.tid}/syscall").partition(b" ")[0]
        if in_call in _VFORKS and b"\nState:\tD" in read(f"/proc/{thread.tid}/status"):
            return
        if end is not None and time.monotonic() > end:
            raise ptrace.BusyError


def read(path: str) -> bytes:
    """A file of /proc; nothing when the process has ended."""
    try:
        with open(path, "rb", buffering=0) as file:
            parts = []
            while part := file.read(1 << 18):
                parts.append(part)
            return b"".join(parts)
    except OSError:
        return b""
