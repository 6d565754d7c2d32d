"""Holding a thread of another process and making system calls in its name (ptrace(2), x86-64).

A thread is held without a signal (PTRACE_SEIZE, PTRACE_INTERRUPT), so a process that was stopped
by one stays stopped. While it is held its seccomp filters are suspended, or ours would stop the
calls that are made in its name. Let go, it goes on as if nothing had been: the kernel restarts the
call that holding has interrupted, or the caller of :meth:`Thread.release` has it done again.
"""

from __future__ import annotations

import ctypes
import os
import time

_SEIZE, _INTERRUPT, _SETOPTIONS = 0x4206, 0x4207, 0x4200
_GETREGS, _SETREGS, _GETSIGMASK, _SETSIGMASK = 12, 13, 0x420A, 0x420B
_CONT, _SYSCALL, _DETACH = 7, 24, 17
_RSEQ = 0x420F  # PTRACE_GET_RSEQ_CONFIGURATION
_TRACESYSGOOD, _EXITKILL, _SUSPEND_SECCOMP = 1, 1 << 20, 1 << 21
_OPTIONS = _TRACESYSGOOD | _SUSPEND_SECCOMP
_WALL = 0x40000000
_EVENT_STOP = 128
_SIGTRAP = 5
_SYSCALL_STOP = _SIGTRAP | 0x80

_REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds",
    "es", "fs", "gs",
)  # fmt: skip
_NO_CALL = (1 << 64) - 1
_ALL_SIGNALS = (1 << 64) - 1
_INSTRUCTION = b"\x0f\x05"
"""``syscall``."""
CODE_64 = 0x33
"""The code segment of a thread in 64-bit mode."""

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


class Registers(ctypes.Structure):
    """``struct user_regs_struct`` (sys/user.h)."""

    _fields_ = [(name, ctypes.c_uint64) for name in _REGISTERS]


class _RseqConfiguration(ctypes.Structure):
    _fields_ = [
        ("pointer", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("signature", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


class GoneError(Exception):
    """The thread has ended."""


class BusyError(Exception):
    """The thread cannot be held: another process traces it, or it does not stop."""


class Thread:
    """A held thread. Use it within one thread of this process: the kernel wants that."""

    __slots__ = ("_held_signals", "_instruction", "_mask", "_section", "registers", "stands", "tid")

    def __init__(self, tid: int) -> None:
        """Begin to hold a thread; it may go on until :meth:`stop`. Raises Gone, Busy."""
        self.tid = tid
        self.registers = Registers()
        """As they were when it stopped."""
        self.stands = False
        """Whether it is known to have stopped."""
        self._mask: int | None = None
        self._instruction = 0
        self._section = (0, b"")
        self._held_signals: list[int] = []
        _request(_SEIZE, tid, 0, _OPTIONS)
        _request(_INTERRUPT, tid)

    def stop(self, end: float | None = None) -> bool:
        """Wait until it stands; False when it still does not at ``end`` (time.monotonic).

        Raises GoneError. Signals that it was about to take are given to it first.
        """
        while True:
            status = _wait(self.tid, end)
            if status is None:
                return False
            if status >> 16 == _EVENT_STOP:
                break
            _request(_CONT, self.tid, 0, os.WSTOPSIG(status))
        self.stands = True
        _request(_GETREGS, self.tid, 0, ctypes.addressof(self.registers))
        return True

    def call(self, number: int, *arguments: int) -> int:
        """Have it make a system call; returns what the kernel answers, negative for an error.

        Raises GoneError, and BusyError when its process has no ``syscall`` instruction to use.
        """
        if self._mask is None:
            self._prepare()
        registers = Registers.from_buffer_copy(self.registers)
        registers.rip, registers.rax, registers.orig_rax = self._instruction, number, _NO_CALL
        names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        for name, value in zip(names, (*arguments, *(0,) * 6), strict=False):
            setattr(registers, name, value & _NO_CALL)
        _request(_SETREGS, self.tid, 0, ctypes.addressof(registers))
        for _ in ("into the kernel", "out of it"):
            _request(_SYSCALL, self.tid)
            self._wait_for_syscall()
        _request(_GETREGS, self.tid, 0, ctypes.addressof(registers))
        return _signed(registers.rax)

    def die_with_us(self, *, wanted: bool) -> None:
        """Whether the kernel kills its process should this one end now."""
        _request(_SETOPTIONS, self.tid, 0, _OPTIONS | (_EXITKILL if wanted else 0))

    def release(self, *, again: bool = False, answer: int | None = None) -> None:
        """Let it go on.

        ``again``: it makes the system call in which it was stopped once more, and whatever signal
        comes is taken before that, so the call never fails with EINTR. ``answer``: that call
        returns this instead. Otherwise the kernel goes on with the interrupted call as after any
        stop. Nothing is raised when it has ended. One that does not stand yet is let go when it
        does, by :func:`release_late`.
        """
        try:
            if not self.stands and not self.stop(time.monotonic()):
                _late.append(self)
                return
            if self._mask is not None:
                self._give_back(native=not again and answer is None)
            if again or answer is not None:
                self._leave_call(answer)
            _request(_DETACH, self.tid)
        except (GoneError, BusyError):
            return
        for number in self._held_signals:
            _libc.syscall(200, self.tid, number)  # tkill

    def _leave_call(self, answer: int | None) -> None:
        registers = self.registers
        if answer is None:
            registers.rax = registers.orig_rax
            registers.rip -= len(_INSTRUCTION)
        else:
            registers.rax = answer & _NO_CALL
        registers.orig_rax = _NO_CALL
        _request(_SETREGS, self.tid, 0, ctypes.addressof(registers))

    def _prepare(self) -> None:
        """Before the first call: no signal may come in between, since it would find our registers.

        A critical section of rseq(2) is left as the kernel would have it: it looks at the address
        in the registers when the thread goes on, finds ours and takes the section for left.
        """
        self._instruction = find_instruction(self.tid, self.registers)
        self._section = self._critical_section()
        mask = ctypes.c_uint64()
        _request(_GETSIGMASK, self.tid, 8, ctypes.addressof(mask))
        blocked = ctypes.c_uint64(_ALL_SIGNALS)
        _request(_SETSIGMASK, self.tid, 8, ctypes.addressof(blocked))
        self._mask = mask.value

    def _give_back(self, *, native: bool) -> None:
        """Signal mask and registers as they were.

        ``native``: stop it once more where the kernel decides about an interrupted call.
        """
        if native:
            _request(_INTERRUPT, self.tid)
            _request(_CONT, self.tid)
            while True:
                status = _wait(self.tid, None)
                if status is not None and status >> 16 == _EVENT_STOP:
                    break
                self._hold_signal(status or 0)
                _request(_CONT, self.tid)
        mask = ctypes.c_uint64(self._mask or 0)
        _request(_SETSIGMASK, self.tid, 8, ctypes.addressof(mask))
        _request(_SETREGS, self.tid, 0, ctypes.addressof(self.registers))
        address, content = self._section
        if native and address:
            _write(self.tid, address, content)

    def _critical_section(self) -> tuple[int, bytes]:
        """Where ``rseq_cs`` of its struct rseq lies, and what it holds; (0, nothing) without."""
        found = _RseqConfiguration()
        size = ctypes.sizeof(found)
        if _ptrace(_RSEQ, self.tid, size, ctypes.addressof(found)) != size or not found.pointer:
            return 0, b""  # not registered, or Linux before 5.13
        address = int(found.pointer) + 8
        content = _read(self.tid, address, 8)
        return (address, content) if any(content) else (0, b"")

    def _wait_for_syscall(self) -> None:
        while True:
            status = _wait(self.tid, None)
            if status is not None and os.WSTOPSIG(status) == _SYSCALL_STOP:
                return
            self._hold_signal(status or 0)
            _request(_SYSCALL, self.tid)

    def _hold_signal(self, status: int) -> None:
        """Only SIGSTOP comes through a full mask (SIGKILL ends it): it gets that afterwards."""
        if status >> 16 == 0 and os.WSTOPSIG(status) != _SIGTRAP:
            self._held_signals.append(os.WSTOPSIG(status))


_late: list[Thread] = []
_ended: list[int] = []
"""Killed while they were held: their parents see them end when we have."""


def release_late() -> bool:
    """Let those go that did not stand when they were released, or had not quite ended.

    Returns whether there are any more. To be called every few milliseconds while there are: such
    a thread stands when it next could run, and waits for this.
    """
    waiting = _late[:]
    _late.clear()
    for thread in waiting:
        thread.release()
    ended = _ended[:]
    _ended.clear()
    for tid in ended:
        _bury(tid)
    return bool(_late or _ended)


def find_instruction(tid: int, registers: Registers) -> int:
    """Address of a ``syscall`` instruction in a held thread's process. BusyError when none is.

    The one by which it came into the kernel, or one of the kernel's own page of code (vdso(7)).
    """
    if registers.cs != CODE_64:
        raise BusyError
    before = int(registers.rip) - len(_INSTRUCTION)
    in_call = _signed(registers.orig_rax) >= 0
    if in_call and _read(tid, before, len(_INSTRUCTION)) == _INSTRUCTION:
        return before
    try:
        with open(f"/proc/{tid}/maps", "rb") as maps:
            lines = maps.readlines()
    except OSError:
        raise GoneError from None
    if not lines:
        raise GoneError
    line = next((line for line in lines if line.endswith(b"[vdso]\n")), b"0-0 ")
    start, end = (int(word, 16) for word in line.split(b" ", 1)[0].split(b"-"))
    found = _read(tid, start, end - start).find(_INSTRUCTION)
    if found < 0:
        raise BusyError
    return start + found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _read(tid: int, address: int, size: int) -> bytes:
    """Memory of a held thread; nothing when it cannot be read."""
    try:
        fd = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, size, address)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _write(tid: int, address: int, content: bytes) -> None:
    try:
        fd = os.open(f"/proc/{tid}/mem", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.pwrite(fd, content, address)
    except OSError:
        return  # it has unmapped what it registered: nothing to keep
    finally:
        os.close(fd)


def _request(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    if _ptrace(request, tid, address, data) == -1:
        if ctypes.get_errno() == 3:  # ESRCH: ended, or killed while it stood
            if request != _SEIZE:
                _bury(tid)
            raise GoneError
        raise BusyError


def _bury(tid: int) -> None:
    """Take note that a held thread has ended."""
    try:
        found, status = os.waitpid(tid, _WALL | os.WNOHANG)
    except ChildProcessError:
        return
    if not found or os.WIFSTOPPED(status):
        _ended.append(tid)


_SPIN = 2e-3
"""Seconds for which a stop is waited for without sleeping: most come within microseconds."""


def _wait(tid: int, end: float | None) -> int | None:
    """The next status of a traced thread; None when there is none at ``end``. Raises GoneError."""
    begun = time.monotonic()
    while True:
        try:
            found, status = os.waitpid(tid, _WALL | os.WNOHANG)
        except ChildProcessError:
            raise GoneError from None
        if found:
            if os.WIFSTOPPED(status):
                return status
            raise GoneError
        now = time.monotonic()
        if end is not None and now >= end:
            return None
        if now - begun < _SPIN:
            os.sched_yield()
        else:
            time.sleep(0.0005)
