"""Behaviours of System V IPC, which databases and older servers use."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

from .behaviour import Answer, Behaviour, behaviour, call, libc, until

IPC_CREAT, IPC_RMID, IPC_NOWAIT = 0o1000, 0, 0o4000
GETVAL, SETVAL = 12, 16
KEY = 0x7E57


def attach(segment: int) -> int:
    """The address at which a segment is attached."""
    libc.shmat.restype = ctypes.c_void_p
    return int(libc.shmat(segment, None, 0))


@behaviour
class SystemVMemory(Behaviour):
    """A segment attached by two processes, found again by its key and by its id."""

    def set_up(self) -> None:
        self.id = call("shmget", KEY, 3 << 12, IPC_CREAT | 0o640)
        self.address = attach(self.id)
        ctypes.memmove(self.address, b"system five", 11)
        self.child = os.fork()
        if self.child == 0:
            while True:
                if ctypes.string_at(self.address + 4096, 4) == b"ping":
                    ctypes.memmove(self.address + 8192, b"pong", 4)
                signal.sigtimedwait({signal.SIGUSR1}, 0.01)

    def observe(self) -> Answer:
        ctypes.memmove(self.address + 4096, b"ping", 4)
        answered = until(lambda: ctypes.string_at(self.address + 8192, 4) == b"pong")
        other = attach(call("shmget", KEY, 0, 0))
        text = ctypes.string_at(other, 11).decode()
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        same = call("shmget", KEY, 0, 0) == self.id
        detached = libc.shmdt(ctypes.c_void_p(self.address))
        call("shmctl", self.id, IPC_RMID, None)
        return {"answered": answered, "by key": text, "same id": same, "detached": detached}


@behaviour
class SystemVSemaphore(Behaviour):
    """A set of semaphores with their values."""

    def set_up(self) -> None:
        self.id = call("semget", KEY, 3, IPC_CREAT | 0o600)
        for number in range(3):
            call("semctl", self.id, number, SETVAL, number + 5)

    def observe(self) -> Answer:
        values = [call("semctl", self.id, number, GETVAL) for number in range(3)]
        same = call("semget", KEY, 0, 0) == self.id
        call("semctl", self.id, 0, IPC_RMID)
        return {"values": values, "same id": same}


@behaviour
class SemaphoreUndo(Behaviour):
    """What a process took with SEM_UNDO is given back when it ends."""

    limit = "lost"
    SEM_UNDO = 0o10000

    def set_up(self) -> None:
        self.id = call("semget", 0, 1, IPC_CREAT | 0o600)
        call("semctl", self.id, 0, SETVAL, 1)
        reader, writer = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            take = struct.pack("=HhH", 0, -1, self.SEM_UNDO)
            call("semop", self.id, ctypes.create_string_buffer(take), 1)
            os.write(writer, b"x")
            signal.pause()
        os.read(reader, 1)

    def observe(self) -> Answer:
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        value = call("semctl", self.id, 0, GETVAL)
        call("semctl", self.id, 0, IPC_RMID)
        return {"given back": value}


@behaviour
class SystemVQueue(Behaviour):
    """A message queue with messages in it."""

    def set_up(self) -> None:
        self.id = call("msgget", KEY, IPC_CREAT | 0o600)
        for kind, text in ((1, b"one"), (2, b"second"), (1, b"third")):
            message = ctypes.create_string_buffer(kind.to_bytes(8, "little") + text)
            call("msgsnd", self.id, message, len(text), 0)

    def observe(self) -> Answer:
        received = []
        for kind in (2, 0, 0):
            buffer = ctypes.create_string_buffer(108)
            size = call("msgrcv", self.id, buffer, 100, ctypes.c_long(kind), IPC_NOWAIT)
            received.append(buffer.raw[8 : 8 + size].decode())
        call("msgctl", self.id, IPC_RMID, None)
        return {"received": received}
