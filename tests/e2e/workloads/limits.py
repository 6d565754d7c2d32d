"""What CRIU cannot do.

``refused``: a capture that meets it fails in words and disturbs nothing. ``lost``: it is captured
and comes back different. docs/limitations.md tells users; a CRIU that can do it makes a test fail.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from .behaviour import Answer, Behaviour, attempt, behaviour, call


@behaviour
class PacketPipe(Behaviour):
    """A pipe in packet mode."""

    limit = "refused"

    def set_up(self) -> None:
        self.packets = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        for packet in (b"one", b"two", b"three"):
            os.write(self.packets[1], packet)

    def observe(self) -> Answer:
        return {"packets": [os.read(self.packets[0], 100).decode() for _ in range(3)]}


@behaviour
class EventfdSemaphore(Behaviour):
    """An eventfd that counts down by one."""

    limit = "lost"

    def set_up(self) -> None:
        self.semaphore = os.eventfd(2, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)

    def observe(self) -> Answer:
        return {"reads": [attempt(lambda: os.eventfd_read(self.semaphore)) for _ in range(3)]}


@behaviour
class Affinity(Behaviour):
    """The processors that a process may run on; CRIU leaves that to us (shim.affinity)."""

    def set_up(self) -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    def observe(self) -> Answer:
        return {"affinity": sorted(os.sched_getaffinity(0))}


@behaviour
class IoUring(Behaviour):
    """A ring of io_uring."""

    limit = "refused"
    NUMBER = 425  # of the system call io_uring_setup, the same on every architecture

    def set_up(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self.ring = call("syscall", self.NUMBER, 4, parameters)

    def observe(self) -> Answer:
        return {"ring": str(Path(f"/proc/self/fd/{self.ring}").readlink())}


@behaviour
class NestedMounts(Behaviour):
    """A process with a mount namespace of its own, as sandboxes for builds make."""

    limit = "refused"
    CLONE_NEWNS = 0x20000

    def set_up(self) -> None:
        reader, writer = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            call("unshare", self.CLONE_NEWNS)
            os.write(writer, b"x")
            signal.pause()
        os.read(reader, 1)

    def observe(self) -> Answer:
        own, other = (os.stat(f"/proc/{pid}/ns/mnt").st_ino for pid in ("self", self.child))
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        return {"own": own != other}
