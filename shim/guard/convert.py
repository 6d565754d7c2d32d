"""Makes parts of a process's memory anonymous while it waits in a system call.

The calling thread is held and makes the calls for it. Where content is kept, all threads that see
the memory are held, so that nothing is written in between; and for the moment in which content is
in this process alone, the kernel is told to kill the process should this one end.
"""

from __future__ import annotations

import errno
import os
import time

from shim.guard import calls, filter, listeners, maps, notice, ptrace, query, steps  # noqa: A004 - its name
from shim.guard.calls import Wish
from shim.guard.maps import Area
from shim.guard.notice import Notice

_CHUNK = 4 << 20
_PAGE = 4096
_ZERO = bytes(_PAGE)
_MOST_PROCESSES = 256
_PATIENCE = 10.0
"""Seconds for all threads of a process to stop."""
_INTERRUPTED = (1 << 64) - 512  # -ERESTARTSYS
_MPROTECT = 10
_SIGKILL = 9
_FAILS = {filter.MREMAP: errno.ENOMEM, filter.I386_MREMAP: errno.ENOMEM, filter.IOCTL: errno.ENOMEM}
"""Errors that a caller has to expect where we cannot help; EAGAIN for the others."""


class Container:
    """What is known about the processes of the container."""

    def __init__(self, cgroups: list[str], name: str) -> None:
        self.cgroups = cgroups
        self.name = name.encode()
        """The file's path as the container's processes have it."""
        self.flagged = False
        """Whether a call has set flags of mappings that we would have to give again."""
        self._details: dict[tuple[int, bytes], list[Area]] = {}

    def areas(self, tid: int) -> tuple[list[Area], int]:
        """The areas of a process, and the number of its mappings. Raises OSError."""
        with open(f"/proc/{tid}/maps", "rb") as file:
            text = file.read()
        if not text:
            raise OSError(errno.ESRCH, "it has ended")
        return maps.areas(text, self.name)

    def concerns(self, tid: int, wish: Wish) -> bool:
        """Whether something of what a wish is about is ours, or was. Raises OSError."""
        return self.touches(tid, wish) or self._whole(tid, wish) is not None

    def touches(self, tid: int, wish: Wish) -> bool:
        """Whether something of what a wish is about is ours. Raises OSError."""
        told = query.touches(tid, self.name, wish.ranges)
        if told is not None:
            return told
        found, _ = self.areas(tid)
        return any(
            one.start < end and start < one.end for one in found for start, end in wish.ranges
        )

    def begins_in(self, tid: int, wish: Wish) -> bool:
        """Whether the first mapping that a wish is about is ours."""
        text = listeners.read(f"/proc/{tid}/maps")
        return maps.first_is(text, self.name, *wish.ranges[0])

    def plan(self, tid: int, wish: Wish) -> list[steps.Step]:
        """What to do for a wish; nothing when the kernel may make the call. Raises OSError."""
        whole = self._whole(tid, wish)
        if whole is not None:
            return [steps.Step(whole, ((whole.start, whole.end),))]
        found, lines = self.areas(tid)
        found = self._detailed(tid, found)
        return steps.steps(calls.pieces(wish, found), found, lines)

    def pieces(self, tid: int, wish: Wish) -> list[calls.Piece]:
        """What of ours has to become anonymous for a wish. Raises OSError."""
        return calls.pieces(wish, self._detailed(tid, self.areas(tid)[0]))

    def _whole(self, tid: int, wish: Wish) -> Area | None:
        """The range that a call wants in one mapping, where it is in several by our doing.

        They are alike then; but the kernel joins no mappings whose pages were written while they
        were apart (anon_vma in mm/vma.c). A new one in their place is one.
        """
        if not wish.joined:
            return None
        start, end = wish.ranges[0]
        for source in ("maps", "smaps"):
            text = listeners.read(f"/proc/{tid}/{source}")
            one = maps.whole(text, self.name, start, end)
            if one is None:
                return None
        return one

    def _detailed(self, tid: int, found: list[Area]) -> list[Area]:
        """The same areas with their flags, from smaps where that may matter.

        smaps goes through all page tables. So it is read once for each process, and again only if
        memory is locked or flags have changed since: parts of an area have what the area had.
        """
        status = listeners.read(f"/proc/{tid}/status")
        process = (maps.number(status, b"Tgid"), _start_time(tid))
        steady = not self.flagged and not maps.number(status, b"VmLck")
        known = self._details.get(process) if steady else None
        full = None if known is None else maps.described(found, known)
        if full is not None:
            return full
        full = maps.details(listeners.read(f"/proc/{tid}/smaps"), self.name)
        if len(self._details) >= _MOST_PROCESSES:
            self._details.clear()
        if steady:
            self._details[process] = full
        return full

    def has_locked(self, tid: int) -> bool:
        """Whether the process has locked memory."""
        return maps.number(listeners.read(f"/proc/{tid}/status"), b"VmLck") > 0


def convert(container: Container, call: Notice, wish: Wish) -> None:
    """Do what a wish asks for. The call is made again then, or answered with an error."""
    if not container.plan(call.tid, wish):
        notice.let_go_on(call)
        return
    try:
        caller = ptrace.Thread(call.tid)
    except ptrace.GoneError:
        return
    except ptrace.BusyError:
        _without_holding(container, call, wish)
        return
    held = [caller]
    answer: int | None = None
    again = False
    try:
        caller.stop()
        if _is_in(caller, call):
            again, answer = _convert_held(container, call, wish, held)
    except ptrace.GoneError:
        return
    finally:
        caller.release(again=again, answer=answer)
        for thread in held[1:]:
            thread.release()


def _convert_held(
    container: Container, call: Notice, wish: Wish, held: list[ptrace.Thread]
) -> tuple[bool, int | None]:
    """Whether to make the call again, or what to answer."""
    plan = container.plan(call.tid, wish)
    if any(step.keep for step in plan):
        try:
            _hold_everyone(container, call.tid, held)
        except ptrace.BusyError:
            return False, -_FAILS.get(call.number, errno.EAGAIN)
        plan = container.plan(call.tid, wish)  # others may have changed it before they stood
    memory = os.open(f"/proc/{call.tid}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        for step in plan:
            for chunk in steps.chunks(step, _CHUNK):
                _replace(held[0], memory, chunk)
            for dressing in steps.dressing(step.area, locks=container.has_locked(call.tid)):
                held[0].call(*dressing)
    except ptrace.BusyError:
        return False, -_FAILS.get(call.number, errno.EAGAIN)
    except OSError:
        # No more mappings, or a sealed one (mseal(2)), or no memory.
        return False, _zero(memory, container, call, wish)
    finally:
        os.close(memory)
    return True, None


def _hold_everyone(container: Container, tid: int, held: list[ptrace.Thread]) -> None:
    """Hold every thread that sees the memory of a held one. Raises GoneError, BusyError."""
    end = time.monotonic() + _PATIENCE
    pid = maps.number(listeners.read(f"/proc/{tid}/status"), b"Tgid")
    listeners.hold_all(pid, held, end)
    for other in listeners.members(container.cgroups):
        if other != pid and notice.same_memory(pid, other):
            try:
                listeners.hold_all(other, held, end)
            except ptrace.GoneError:
                continue


def _replace(thread: ptrace.Thread, memory: int, step: steps.Step) -> None:
    """Put anonymous memory in place of a range; what is kept is the same afterwards.

    Raises OSError when nothing has been changed.
    """
    kept = [(start, _read(memory, start, end)) for start, end in step.keep]
    if kept:
        thread.die_with_us(wanted=True)
    result = thread.call(*steps.mmap(step.area))
    if result < 0:
        raise OSError(-result, "mmap")
    if not kept:
        return
    try:
        for start, content in kept:
            _write(memory, start, content)
    except OSError:
        _write_otherwise(thread, memory, step.area, kept)
    thread.die_with_us(wanted=False)


def _write_otherwise(
    thread: ptrace.Thread, memory: int, area: Area, kept: list[tuple[int, bytes]]
) -> None:
    """Write where the kernel lets nobody write into read-only memory; or end the process.

    Its memory would be wrong if it went on: there is none left for it, as if the kernel had found.
    """
    size = area.end - area.start
    thread.call(_MPROTECT, area.start, size, maps.READ | maps.WRITE)
    try:
        for start, content in kept:
            _write(memory, start, content)
    except OSError:
        os.kill(thread.tid, _SIGKILL)
        raise ptrace.GoneError from None
    thread.call(_MPROTECT, area.start, size, area.prot)


def _read(memory: int, start: int, end: int) -> bytes:
    parts = []
    while start < end:
        part = os.pread(memory, end - start, start)
        if not part:
            raise OSError(errno.EIO, "the memory ends")
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _write(memory: int, start: int, content: bytes) -> None:
    """Write what is not zero, which fresh memory is."""
    at, size = 0, len(content)
    while at < size:
        if content[at : at + _PAGE] == _ZERO:
            at += _PAGE
            continue
        end = at + _PAGE
        while end < size and content[end : end + _PAGE] != _ZERO:
            end += _PAGE
        _write_all(memory, start + at, content[at:end])
        at = end


def _write_all(memory: int, start: int, content: bytes) -> None:
    done = 0
    while done < len(content):
        size = os.pwrite(memory, content[done:], start + done)
        if size == 0:
            raise OSError(errno.ESRCH, "its memory is gone")
        done += size


def _zero(memory: int, container: Container, call: Notice, wish: Wish) -> int:
    """The second best: zeros in place of what a call throws away; the answer to that call.

    The call itself is not made. So all of its range must be ours, or it fails.
    """
    failed = -_FAILS.get(call.number, errno.EAGAIN)
    parts = container.pieces(call.tid, wish)
    (start, end), *more = wish.ranges
    emptied = sum(part.area.end - part.area.start for part in parts if part.empty)
    if more or emptied != end - start:
        return failed
    if wish.advice == calls.FREE:
        return 0  # which may leave everything as it is
    try:
        for at in range(start, end, _CHUNK):
            _write_all(memory, at, bytes(min(_CHUNK, end - at)))
    except OSError:
        return failed
    return 0


def _without_holding(container: Container, call: Notice, wish: Wish) -> None:
    """Somebody else traces the caller, a debugger for example."""
    try:
        memory = os.open(f"/proc/{call.tid}/mem", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if notice.waits(call):
            notice.answer(call, _zero(memory, container, call, wish))
    finally:
        os.close(memory)


def _is_in(thread: ptrace.Thread, call: Notice) -> bool:
    """Whether a held thread has just been interrupted in the call of a notification.

    A signal may have come first: then it is in a handler, or in a later call.
    """
    found = thread.registers
    if found.orig_rax != call.number or found.rax != _INTERRUPTED:
        return False
    if call.arch != filter.X86_64:
        return True
    return (found.rdi, found.rsi, found.rdx, found.r10) == call.arguments[:4]


def _start_time(tid: int) -> bytes:
    fields = listeners.read(f"/proc/{tid}/stat").rpartition(b")")[2].split()
    return fields[19] if len(fields) > 19 else b""
