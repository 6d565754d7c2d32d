"""Behaviours of memory: private, shared, sealed, mapped, protected."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import multiprocessing
import os
import random
import signal
from pathlib import Path

from .behaviour import Answer, Behaviour, attempt, behaviour, call, libc, scratch, until

F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 2, 4, 8
MADV_WIPEONFORK = 18
PAGE = mmap.PAGESIZE


@behaviour
class Heap(Behaviour):
    """A large heap with content, zero pages and holes: the checksum stays."""

    def set_up(self) -> None:
        self.blocks = [random.Random(seed).randbytes(4 << 20) for seed in range(8)]  # noqa: S311
        self.zeros = bytearray(16 << 20)
        self.sparse = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, 256 << 20, 32 << 20):
            self.sparse[offset : offset + 8] = offset.to_bytes(8, "little")
        self.before = self._digest()

    def _digest(self) -> str:
        digest = hashlib.sha256(self.zeros)
        for block in self.blocks:
            digest.update(block)
        for offset in range(0, 256 << 20, 32 << 20):
            digest.update(self.sparse[offset : offset + PAGE])
        return digest.hexdigest()

    def observe(self) -> Answer:
        same = self._digest() == self.before
        lines = Path("/proc/self/smaps").read_text().split("\n")
        sizes = [
            lines[i + 2]
            for i, line in enumerate(lines)
            if line.startswith("Size:") and "262144 kB" in line
        ]
        resident = [int(size.split()[1]) for size in sizes if size.startswith("Rss")]
        self.zeros[-1] = 1
        return {"same": same, "holes stay holes": sum(resident) < 64 << 10}


@behaviour
class Protections(Behaviour):
    """Read-only and unreadable pages, guard pages and a page without a copy on fork."""

    def set_up(self) -> None:
        self.memory = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(8):
            self.memory[page * PAGE] = page + 1
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        call("mprotect", ctypes.c_void_p(self.address + PAGE), PAGE, mmap.PROT_READ)
        call("mprotect", ctypes.c_void_p(self.address + 2 * PAGE), PAGE, 0)
        self.memory.madvise(mmap.MADV_DONTFORK, 4 * PAGE, PAGE)
        self.memory.madvise(MADV_WIPEONFORK, 5 * PAGE, PAGE)

    def _dies(self, offset: int, *, write: bool) -> int:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            target = ctypes.c_void_p(self.address + offset)
            if write:
                ctypes.memset(target, 1, 1)
            else:
                ctypes.string_at(target, 1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _wiped(self) -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(self.memory[5 * PAGE])
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def observe(self) -> Answer:
        return {
            "write to read-only": self._dies(PAGE, write=True),
            "read of read-only": self._dies(PAGE, write=False),
            "read of unreadable": self._dies(2 * PAGE, write=False),
            "not forked": self._dies(4 * PAGE, write=False),
            "wiped on fork": self._wiped(),
            "content": [self.memory[page * PAGE] for page in (0, 1, 3, 4, 5, 6, 7)],
        }


@behaviour
class SharedAnonymous(Behaviour):
    """Shared anonymous memory between a parent and a child, both writing."""

    def set_up(self) -> None:
        self.memory = mmap.mmap(-1, 4 << 20)
        self.memory[:6] = b"before"
        self.child = os.fork()
        if self.child == 0:
            while True:
                if self.memory[100:104] == b"ping":
                    self.memory[200:204] = b"pong"
                signal.sigtimedwait({signal.SIGUSR1}, 0.01)

    def observe(self) -> Answer:
        self.memory[100:104] = b"ping"
        answered = until(lambda: self.memory[200:204] == b"pong")
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        return {"content": self.memory[:6].decode(), "answered": answered}


@behaviour
class Memfd(Behaviour):
    """A memfd: content, seals, offset, and a mapping of it."""

    def set_up(self) -> None:
        self.fd = os.memfd_create("workload", os.MFD_ALLOW_SEALING)
        os.write(self.fd, b"sealed content" * 1000)
        self.map = mmap.mmap(self.fd, PAGE, prot=mmap.PROT_READ)
        fcntl.fcntl(self.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)
        os.lseek(self.fd, 7, os.SEEK_SET)

    def observe(self) -> Answer:
        return {
            "name": os.readlink(f"/proc/self/fd/{self.fd}"),
            "seals": fcntl.fcntl(self.fd, F_GET_SEALS),
            "size": os.fstat(self.fd).st_size,
            "read": os.read(self.fd, 7).decode(),
            "mapped": self.map[:6].decode(),
            "grow": attempt(lambda: os.ftruncate(self.fd, 1 << 20)),
        }


@behaviour
class FileMappings(Behaviour):
    """Mappings of files: shared (writes reach the file), private (writes stay private)."""

    def set_up(self) -> None:
        path = Path(scratch()) / "mapped"
        path.write_bytes(b"original" + bytes(4 * PAGE))
        self.file = path.open("r+b")
        self.shared = mmap.mmap(self.file.fileno(), 4 * PAGE)
        self.private = mmap.mmap(
            self.file.fileno(),
            4 * PAGE,
            flags=mmap.MAP_PRIVATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
        self.private[100:107] = b"private"
        self.shared[200:206] = b"shared"

    def observe(self) -> Answer:
        self.shared[300:305] = b"after"
        content = os.pread(self.file.fileno(), 400, 0)
        return {
            "file": [content[:8].decode(), content[200:206].decode(), content[300:305].decode()],
            "untouched": content[100:107] == bytes(7),
            "private": self.private[100:107].decode(),
            "through": self.private[200:206].decode(),
        }


@behaviour
class Locked(Behaviour):
    """mlock stays in force."""

    def set_up(self) -> None:
        self.memory = mmap.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory[0] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        call("mlock", ctypes.c_void_p(address), 4 * PAGE)

    def observe(self) -> Answer:
        lines = Path("/proc/self/status").read_text().splitlines()
        return {"locked": [line.split()[1:] for line in lines if line.startswith("VmLck")]}


@behaviour
class Semaphores(Behaviour):
    """multiprocessing's lock, semaphore, queue and value, shared with a child (/dev/shm)."""

    def set_up(self) -> None:
        context = multiprocessing.get_context("fork")
        self.lock = context.Lock()
        self.semaphore = context.Semaphore(3)
        self.semaphore.acquire()
        self.value = context.Value("i", 40)
        self.queue: multiprocessing.queues.SimpleQueue[int] = context.SimpleQueue()
        self.lock.acquire()
        self.child = os.fork()
        if self.child == 0:
            self.lock.acquire()  # until the parent lets go
            with self.value.get_lock():
                self.value.value += 2
            self.queue.put(self.value.value)
            signal.pause()

    def observe(self) -> Answer:
        early = self.value.value
        self.lock.release()
        answer = self.queue.get()
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        taken = [self.semaphore.acquire(block=False) for _ in range(3)]
        return {"early": early, "answer": answer, "semaphore": taken}


@behaviour
class SharedMemory(Behaviour):
    """/dev/shm: a plain file, a mapped one, one without a name, a named semaphore's file."""

    def set_up(self) -> None:
        self.root = Path("/dev/shm/workload")
        self.root.mkdir(mode=0o710)
        (self.root / "plain").write_text("plain text")
        (self.root / "plain").chmod(0o640)
        (self.root / "link").symlink_to("plain")
        with (self.root / "mapped").open("w+b") as file:
            file.truncate(1 << 20)
            self.mapped = mmap.mmap(file.fileno(), 1 << 20)
        self.mapped[1000:1006] = b"mapped"
        path = self.root / "unnamed"
        self.unnamed = path.open("w+b", buffering=0)
        self.unnamed.truncate(1 << 20)
        self.unnamed_map = mmap.mmap(self.unnamed.fileno(), 1 << 20)
        self.unnamed_map[5:12] = b"unnamed"
        path.unlink()
        libc.sem_open.restype = ctypes.c_void_p
        libc.sem_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_uint]
        self.semaphore = ctypes.c_void_p(libc.sem_open(b"/workload", os.O_CREAT, 0o600, 2))

    def observe(self) -> Answer:
        value = ctypes.c_int()
        call("sem_getvalue", self.semaphore, ctypes.byref(value))
        call("sem_post", self.semaphore)
        again = ctypes.c_void_p(libc.sem_open(b"/workload", 0, 0, 0))
        reopened = ctypes.c_int()
        call("sem_getvalue", again, ctypes.byref(reopened))
        self.mapped[2000:2005] = b"later"
        file = (self.root / "mapped").read_bytes()
        return {
            "plain": (self.root / "plain").read_text(),
            "modes": [oct(self.root.stat().st_mode), oct((self.root / "plain").stat().st_mode)],
            "link": str((self.root / "link").readlink()),
            "mapped": [file[1000:1006].decode(), file[2000:2005].decode(), len(file)],
            "unnamed": [
                self.unnamed_map[5:12].decode(),
                os.pread(self.unnamed.fileno(), 7, 5).decode(),
                (self.root / "unnamed").exists(),
            ],
            "semaphore": [value.value, reopened.value],
        }
