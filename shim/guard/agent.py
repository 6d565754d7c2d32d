"""The agent: answers the stopped calls of one container, from its restore to its end.

    python -I -S -c … ROOT ORDERS ANSWERS RUN CONTAINER LOG FILE CGROUP…

See :mod:`shim.guard` for what it is for and :mod:`shim.guard.launch` for who starts it. It ends
when the last process with one of its filters has ended.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import sys
import time

from shim.guard import calls, convert, listeners, maps, notice, ptrace
from shim.guard import filter as bpf

_POLL_RESTORE = 0.002
"""Seconds between two looks for new processes while CRIU makes them."""
_POLL_LATE = 0.001
_IN, _HANGUP = select.POLLIN, select.POLLHUP | select.POLLERR
_SELF = (-10000, -10001)
"""PIDFD_SELF_THREAD, PIDFD_SELF_THREAD_GROUP (Linux 6.14)."""


class Agent:
    """What it knows; one object in a process."""

    def __init__(self, cgroups: list[str], name: str, lock: int, log: str) -> None:
        """``name``: the mapped file's path as the container's processes have it."""
        self._container = convert.Container(cgroups, name)
        self._cgroups = cgroups
        self._listeners = listeners.Listeners()
        self._lock = lock
        self._log = log
        self._clean: set[int] = set()
        self._poll, self._polled = select.poll(), list[int]()
        self._joined: dict[int, tuple[int, ...]] = {}
        """Thread → arguments of its last call whose range was made one mapping."""

    def look(self) -> None:
        """Take the listeners of the processes that are there, and close them where CRIU is done."""
        for pid in listeners.members(self._cgroups):
            if pid in self._clean:
                continue
            status = listeners.read(f"/proc/{pid}/status")
            if not listeners.is_filtered(status):
                continue
            listeners.collect(pid, self._listeners)
            if listeners.is_traced(status):
                continue
            try:
                listeners.close_in(pid)
                self._clean.add(pid)
            except (ptrace.GoneError, ptrace.BusyError):
                continue

    def settle(self) -> bool:
        """Go on until no process has a listener; False when one does not let go of it.

        A process that has none can have no child with one.
        """
        self._clean.clear()
        clean, stuck = False, 0
        while not clean and stuck < 100:
            clean = True
            for pid in listeners.members(self._cgroups):
                if not listeners.collect(pid, self._listeners):
                    continue
                clean = False
                try:
                    listeners.close_in(pid)
                except ptrace.GoneError:
                    continue
                except ptrace.BusyError:
                    stuck += 1
                    time.sleep(0.002)
        return clean

    @property
    def serves(self) -> bool:
        """Whether there is a process to serve."""
        return bool(self._listeners.held)

    def serve(self, orders: int | None, seconds: float | None) -> bool:
        """Answer what comes within some time, or the first that comes; True: there is an order."""
        late = ptrace.release_late()
        if late:
            seconds = _POLL_LATE if seconds is None else min(seconds, _POLL_LATE)
        poll = self._poll_of(orders)
        spoken = False
        for fd, events in poll.poll(None if seconds is None else seconds * 1000):
            if fd == orders:
                spoken = True
            elif events & _IN:
                self._receive(fd)
            elif events & _HANGUP:
                self._listeners.drop(fd)
        return spoken

    def _poll_of(self, orders: int | None) -> select.poll:
        wanted = [*self._listeners.held, *([] if orders is None else [orders])]
        if wanted != self._polled:
            self._poll, self._polled = select.poll(), wanted
            for fd in wanted:
                self._poll.register(fd, _IN)
        return self._poll

    def _receive(self, listener: int) -> None:
        call = notice.receive(listener)
        if call is None:
            return
        try:
            self._treat(call)
        except Exception as error:  # noqa: BLE001 - the caller must not wait for ever
            if not notice.waits(call):
                return  # it was killed meanwhile
            self.tell(f"call {call.number} of thread {call.tid}: {type(error).__name__}: {error}")
            notice.answer(call, -errno.EAGAIN)

    def _treat(self, call: notice.Notice) -> None:
        joined = self._joined.pop(call.tid, None)
        wish = calls.wish(
            call.arch, call.number, call.arguments, lambda at, size: _memory(call.tid, at, size)
        )
        if wish.kind == calls.NOTHING or not self._concerns(call, wish):
            notice.let_go_on(call)
        elif wish.kind == calls.FLAGS:
            self._container.flagged = True
            notice.let_go_on(call)
        elif wish.kind in (calls.NAME, calls.REFUSE):
            self._answer(call, wish)
        elif joined == call.arguments and not self._container.touches(call.tid, wish):
            notice.let_go_on(call)  # it is as near to one mapping as it gets
        else:
            if wish.joined:
                self._joined[call.tid] = call.arguments
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                if notice.waits(call):
                    convert.convert(self._container, call, wish)
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _concerns(self, call: notice.Notice, wish: calls.Wish) -> bool:
        """Whether a wish touches an area of ours, and is one of the memory of the caller."""
        if not self._container.concerns(call.tid, wish):
            return False
        if call.arch == bpf.X86_64 and call.number in (bpf.IOCTL, bpf.PROCESS_MADVISE):
            fd = ctypes.c_int(call.arguments[0] & 0xFFFFFFFF).value
            return (
                _is_userfault(call.tid, fd) if call.number == bpf.IOCTL else _is_own(call.tid, fd)
            )
        return notice.waits(call)

    def _answer(self, call: notice.Notice, wish: calls.Wish) -> None:
        if not self._container.begins_in(call.tid, wish):
            notice.let_go_on(call)
        elif wish.kind == calls.REFUSE:
            notice.answer(call, -errno.EINVAL)
        elif _kernel_names():
            notice.answer(call, 0)
        else:
            notice.let_go_on(call)

    def tell(self, line: str) -> None:
        """Write one line to the log; that it cannot be written is nobody's trouble."""
        try:
            with open(self._log, "a", encoding="utf-8", errors="replace") as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} guard: {line}\n")
        except OSError:
            return


def main(arguments: list[str]) -> int:
    """The program. Returns its exit status."""
    orders, answers, run, container, log, name, *cgroups = arguments
    pipes = int(orders), int(answers)
    os.chdir("/")
    _close_all_but(pipes)
    path = f"{run}/guards/{container}.lock"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    agent = Agent(cgroups, name, lock, log)
    try:
        return _live(agent, *pipes)
    except Exception as error:
        agent.tell(f"ended: {type(error).__name__}: {error}")
        raise
    finally:
        os.unlink(path)


def _live(agent: Agent, orders: int, answers: int) -> int:
    while not agent.serve(orders, _POLL_RESTORE):
        agent.look()
    if os.read(orders, 64) != b"restored\n":
        return 1  # the restore was given up
    problem = ""
    if not agent.settle():
        problem = "a process of the container does not let go of the descriptor of its filter"
    elif not agent.serves:
        problem = "no process of the container has the filter that guards its memory"
    try:
        os.write(answers, f"{problem or 'ready'}\n".encode())
    except OSError:
        return 1  # whoever has started us is gone: it is undone
    os.close(orders)
    os.close(answers)
    if problem:
        agent.tell(problem)
        return 1
    while agent.serves:
        agent.serve(None, None)
    return 0


def _close_all_but(kept: tuple[int, int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue


def _memory(tid: int, address: int, size: int) -> bytes:
    """Memory of a process; OSError when not all of it can be read."""
    fd = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.pread(fd, size, address) if address < 1 << 63 else b""
    finally:
        os.close(fd)
    if len(found) != size:
        raise OSError(errno.EFAULT, "cannot be read")
    return found


def _is_userfault(tid: int, fd: int) -> bool:
    try:
        return "userfaultfd" in os.readlink(f"/proc/{tid}/fd/{fd}")
    except OSError:
        return False


def _is_own(tid: int, fd: int) -> bool:
    """Whether a pidfd of a process is one of that process itself."""
    if fd in _SELF:
        return True
    info = b"\n" + listeners.read(f"/proc/{tid}/fdinfo/{fd}")
    status = listeners.read(f"/proc/{tid}/status")
    pid = maps.number(info, b"Pid")
    return pid > 0 and pid == maps.number(status, b"Tgid")


def _kernel_names() -> bool:
    """Whether this kernel gives names to anonymous memory (CONFIG_ANON_VMA_NAME)."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = ctypes.create_string_buffer(2 * 4096)
    start = ctypes.c_ulong(-(-ctypes.addressof(page) // 4096) * 4096)
    size, none = ctypes.c_ulong(4096), ctypes.c_ulong(0)
    result: int = libc.prctl(bpf.PR_SET_VMA, ctypes.c_ulong(0), start, size, none)
    return result == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
