"""A seccomp listener: receive notifications, answer them (seccomp_unotify(2))."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct

from shim.record import record

CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE

_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
_NOTICE = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")

_KCMP, _KCMP_FILE, _KCMP_VM = 312, 0, 1
_libc = ctypes.CDLL(None, use_errno=True)


@record(kw_only=True)
class Notice:
    """A call that waits for an answer."""

    listener: int
    identity: int
    """The kernel's name for it."""
    tid: int
    """The thread, by its number in this process's PID namespace."""
    number: int
    arch: int
    arguments: tuple[int, ...]


def receive(listener: int) -> Notice | None:
    """The next notification; None when its caller has been interrupted meanwhile."""
    buffer = bytearray(_NOTICE.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
            return None
        raise
    identity, tid, _, number, arch, _, *arguments = _NOTICE.unpack(buffer)
    return Notice(
        listener=listener,
        identity=identity,
        tid=tid,
        number=number,
        arch=arch,
        arguments=(*arguments,),
    )


def waits(notice: Notice) -> bool:
    """Whether its caller still waits, so that its number is still its own."""
    try:
        fcntl.ioctl(notice.listener, _IS_VALID, struct.pack("=Q", notice.identity))
    except OSError:
        return False
    return True


def let_go_on(notice: Notice) -> None:
    """Have the kernel make the call."""
    _send(notice, 0, 0, CONTINUE)


def answer(notice: Notice, result: int) -> None:
    """Have the call return this; a negative number is an error."""
    _send(notice, max(result, 0), min(result, 0), 0)


def _send(notice: Notice, value: int, error: int, flags: int) -> None:
    try:
        packed = _ANSWER.pack(notice.identity, value, error, flags)
        fcntl.ioctl(notice.listener, _SEND, bytearray(packed))
    except OSError as problem:
        if problem.errno != errno.ENOENT:  # it was interrupted
            raise


def compare_files(pid: int, one: int, other: int) -> int:
    """How two descriptors of a process are ordered: 0 for the same open file, 1 less, 2 greater."""
    return int(_libc.syscall(_KCMP, pid, pid, _KCMP_FILE, one, other))


def same_memory(one: int, other: int) -> bool:
    """Whether two processes share their memory."""
    return bool(_libc.syscall(_KCMP, one, other, _KCMP_VM, 0, 0) == 0)
