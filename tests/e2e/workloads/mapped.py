"""Behaviours of memory that may be mapped from a snapshot after a restore: as if it were not."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from .behaviour import Answer, Behaviour, attempt, behaviour, call, libc
from .region import DONTUNMAP, EXEC, MAYMOVE, PAGE, READ, REMAP_FIXED, WRITE, Region, in_child

FREE, REMOVE, DONTFORK, DOFORK = 8, 9, 10, 11
MERGEABLE, HUGEPAGE, NOHUGEPAGE, WIPEONFORK, KEEPONFORK = 12, 14, 15, 18, 19
COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED = 20, 21, 22, 23, 24
COLLAPSE, GUARD_INSTALL, GUARD_REMOVE = 25, 102, 103


@behaviour
class MappedFork(Behaviour):
    """What a parent and its child write is each one's own."""

    def set_up(self) -> None:
        self.region = Region()

    def observe(self) -> Answer:
        region = self.region
        region.write(1, b"parent")

        def child() -> object:
            region.write(2, b"child")
            return region.look(), region.read(1, 6)

        seen = in_child(child)
        region.write(3, b"later")
        return {"child": seen, "parent": region.look(), "grandchild": in_child(lambda: seen)}


@behaviour
class MappedTree(Behaviour):
    """Children that were forked before: each has the pages of its parent but for its own."""

    def set_up(self) -> None:
        self.region = Region(256)
        self.pipes = []
        for number in range(3):
            asking, answering = os.pipe(), os.pipe()
            if os.fork() == 0:
                self.region.write(10 + number, b"number %d" % number)
                os.read(asking[0], 1)
                look = f"{self.region.look()} {self.region.read(10 + number, 8)!r}"
                self.region.write(200 + number, b"after")
                os.write(answering[1], f"{look} {self.region.look(200)}".encode())
                os._exit(0)
            self.pipes.append((asking[1], answering[0]))
        self.region.write(100, b"parent")

    def observe(self) -> Answer:
        self.region.write(101, b"parent, after")
        seen = []
        for asking, answering in self.pipes:
            os.write(asking, b"?")
            seen.append(os.read(answering, 1000).decode())
            os.wait()
        return {"children": seen, "parent": self.region.look()}


@behaviour
class MappedProtection(Behaviour):
    """mprotect: read-only, nothing, back, and code that is made and run."""

    def set_up(self) -> None:
        self.region = Region()
        self.barred = Region()
        self.barred.protect(0, 0, 128)

    def observe(self) -> Answer:
        region = self.region
        region.protect(READ, 0, 32)
        region.protect(0, 32, 64)
        answer = {
            "write to read-only": in_child(lambda: region.write(0, b"x")),
            "read of read-only": in_child(lambda: region.look(0, 32)),
            "read of nothing": in_child(lambda: region.look(32, 33)),
        }
        region.protect(READ | WRITE, 0, 64)
        region.write(5, b"again")
        answer["back"] = region.look()
        self.barred.protect(READ | WRITE, 0, 64)
        answer["barred"] = self.barred.look(0, 64)
        if platform.machine() == "x86_64":
            region.write(70, b"\xb8\x2a\x00\x00\x00\xc3")  # mov eax, 42; ret
            region.protect(READ | EXEC, 70, 71)
            code = ctypes.CFUNCTYPE(ctypes.c_int)(region.at(70))
            answer["code"] = in_child(code)
        return answer


@behaviour
class MappedGrowth(Behaviour):
    """mremap: what is added is zero, what was there stays, wherever it goes."""

    def set_up(self) -> None:
        self.regions: list[Region] = []
        for _ in range(6):
            self.regions.append(Region())
            Region(1, fill=False).protect(0, 0, 1)  # so that they do not become one mapping

    def observe(self) -> Answer:
        grown, shrunk, moved, left, again, part = self.regions
        grown.write(7, b"written")
        grown.remap(300)
        shrunk.remap(40)
        shrunk.remap(200)
        moved.remap(128, MAYMOVE | REMAP_FIXED, Region(128, fill=False).address)
        old = left.remap(128, MAYMOVE | DONTUNMAP)
        for pages in (130, 600, 50, 90):
            again.remap(pages)
        size = part.pages
        part.pages = 64  # the first half alone
        part.remap(90)
        return {
            "grown": grown.look(),
            "shrunk": shrunk.look(),
            "moved": moved.look(),
            "left": [left.look(), left.seen_as(old).look()],
            "again": again.look(),
            "part": [part.look(), size],
        }


@behaviour
class MappedInPlace(Behaviour):
    """mremap that may not move: it grows where there is room and fails where there is none."""

    def set_up(self) -> None:
        hole = Region(256, fill=False)
        self.region = Region(128, address=hole.address)
        hole.unmap(128, 256)
        wall = Region(256, fill=False)
        self.walled = Region(128, address=wall.address)
        wall.protect(READ, 128, 256)

    def observe(self) -> Answer:
        self.region.write(127, b"the last")
        return {
            "room": [attempt(lambda: self.region.remap(200, 0) and "grown"), self.region.look()],
            "wall": [attempt(lambda: self.walled.remap(200, 0) and "grown"), self.walled.look()],
        }


@behaviour
class MappedAdvice(Behaviour):
    """madvise: what gives memory back leaves zeros, what does not leaves it, errors are errors."""

    def set_up(self) -> None:
        self.region = Region(512)

    def observe(self) -> Answer:
        region, answer = self.region, {}

        def tell(name: str, advice: int, start: int, end: int) -> None:
            result = attempt(lambda: region.advise(advice, start, end))
            answer[name] = [result, region.look(start, end)]

        region.write(3, b"written before")
        tell("DONTNEED", mmap.MADV_DONTNEED, 0, 16)
        region.write(4, b"written after")
        tell("DONTNEED again", mmap.MADV_DONTNEED, 2, 6)
        tell("DONTNEED, unaligned", mmap.MADV_DONTNEED, 16, 16)
        tell("REMOVE", REMOVE, 16, 32)
        tell("HUGEPAGE", HUGEPAGE, 32, 64)
        tell("NOHUGEPAGE", NOHUGEPAGE, 32, 64)
        tell("MERGEABLE", MERGEABLE, 64, 80)
        tell("WILLNEED", mmap.MADV_WILLNEED, 80, 96)
        tell("SEQUENTIAL", mmap.MADV_SEQUENTIAL, 96, 112)
        tell("RANDOM", mmap.MADV_RANDOM, 112, 128)
        tell("COLD", COLD, 128, 144)
        tell("PAGEOUT", PAGEOUT, 144, 160)
        tell("POPULATE_READ", POPULATE_READ, 160, 176)
        tell("POPULATE_WRITE", POPULATE_WRITE, 176, 192)
        tell("DONTNEED_LOCKED", DONTNEED_LOCKED, 192, 208)
        tell("no advice", 77, 208, 224)
        result = attempt(lambda: region.advise(GUARD_INSTALL, 224, 240))
        guarded = in_child(lambda: region.look(224, 225))
        answer["GUARD"] = [
            result,
            guarded if result == 0 else "",
            attempt(lambda: region.advise(GUARD_REMOVE, 224, 240)),
            region.look(224, 240),
        ]
        answer["rest"] = region.look(240)
        return answer


@behaviour
class MappedFree(Behaviour):
    """MADV_FREE: a page is as it was or zero; what is written afterwards stays."""

    def set_up(self) -> None:
        self.region = Region()

    def observe(self) -> Answer:
        result = attempt(lambda: self.region.advise(FREE, 0, 64))
        self.region.write(5, b"kept")
        looks = self.region.look(0, 5) + self.region.look(6, 64)
        kinds = {look.split()[1] for look in looks}
        return {
            "result": result,
            "content": sorted(kinds - {"own", "zero"}),
            "kept": self.region.read(5, 4).decode(),
            "rest": self.region.look(64),
        }


@behaviour
class MappedForkAdvice(Behaviour):
    """What a child does not get: wiped, kept again, and not there at all."""

    def set_up(self) -> None:
        self.region = Region()
        self.wiped = Region()
        self.wiped.advise(WIPEONFORK, 0, 128)

    def observe(self) -> Answer:
        region = self.region
        region.write(1, b"written")
        results = [
            attempt(lambda: region.advise(WIPEONFORK, 0, 64)),
            in_child(region.look),
            region.look(),
            attempt(lambda: region.advise(KEEPONFORK, 0, 64)),
            in_child(region.look),
            attempt(lambda: region.advise(DONTFORK, 0, 32)),
            in_child(lambda: region.look(0, 1)),
            in_child(lambda: region.look(32, 128)),
            attempt(lambda: region.advise(DOFORK, 0, 32)),
            in_child(region.look),
        ]
        return {"results": results, "from before": [in_child(self.wiped.look), self.wiped.look()]}


@behaviour
class MappedChildAdvice(Behaviour):
    """A child gives memory back: its own pages become zero, its parent's stay."""

    def set_up(self) -> None:
        self.region = Region()

    def observe(self) -> Answer:
        def child() -> object:
            self.region.advise(mmap.MADV_DONTNEED, 0, 64)
            seen = self.region.look()
            below = in_child(
                lambda: (self.region.advise(mmap.MADV_DONTNEED, 64, 96), self.region.look())
            )
            return seen, below, self.region.look()

        return {"child": in_child(child), "parent": self.region.look()}


@behaviour
class MappedUnmapped(Behaviour):
    """Parts are unmapped, and others are mapped in their place: those are zero."""

    def set_up(self) -> None:
        self.region = Region()

    def observe(self) -> Answer:
        region = self.region
        region.unmap(32, 64)
        gone = in_child(lambda: region.look(32, 33))
        Region(16, address=region.at(32), fill=False)
        Region(8, address=region.at(100), fill=False)
        region.advise(mmap.MADV_DONTNEED, 0, 8)
        return {"gone": gone, "around": [region.look(0, 48), region.look(64)]}


@behaviour
class MappedHeap(Behaviour):
    """malloc's heap (brk): grows, is trimmed, and what it grows by again is zero."""

    SIZE = 8 << 20

    def set_up(self) -> None:
        libc.malloc.restype = libc.calloc.restype = libc.realloc.restype = ctypes.c_void_p
        libc.free.argtypes = [ctypes.c_void_p]
        libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: all of it by brk
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: nothing goes unasked
        self.block = libc.malloc(ctypes.c_size_t(self.SIZE))
        ctypes.memset(self.block, 0x5A, self.SIZE)

    def _is(self, block: int, value: int) -> bool:
        return ctypes.string_at(block, self.SIZE) == bytes([value]) * self.SIZE

    def observe(self) -> Answer:
        second = libc.malloc(ctypes.c_size_t(self.SIZE))
        ctypes.memset(second, 0x33, self.SIZE)
        whole = self._is(self.block, 0x5A) and self._is(second, 0x33)
        libc.free(second)
        libc.free(self.block)
        trimmed = libc.malloc_trim(0)
        fresh = libc.calloc(1, ctypes.c_size_t(self.SIZE))
        zero = self._is(fresh, 0)
        ctypes.memset(fresh, 1, self.SIZE)
        return {"whole": whole, "trimmed": trimmed, "zero": zero, "used": self._is(fresh, 1)}


@behaviour
class MappedReallocation(Behaviour):
    """realloc of huge blocks, which is mremap."""

    def set_up(self) -> None:
        libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p
        libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.mallopt(-3, 1 << 20)
        self.block = libc.malloc(ctypes.c_size_t(4 << 20))
        ctypes.memset(self.block, 0x77, 4 << 20)

    def observe(self) -> Answer:
        block, sizes = self.block, []
        for mib in (16, 9, 64, 5, 4):
            block = libc.realloc(block, mib << 20)
            sizes.append(ctypes.string_at(block, 4 << 20) == b"\x77" * (4 << 20))
            if mib > 5:
                ctypes.memset(block + (4 << 20), 0x11, (mib - 4) << 20)
        return {"content": sizes}


@behaviour
class MappedThreads(Behaviour):
    """Threads give back, protect and grow memory at the same time, each its own."""

    def set_up(self) -> None:
        self.regions = [Region(256) for _ in range(4)]
        self.begin = threading.Event()
        self.seen: list[list[str]] = [[] for _ in self.regions]
        self.threads = [threading.Thread(target=self._work, args=(number,)) for number in range(4)]
        for thread in self.threads:
            thread.start()

    def _work(self, number: int) -> None:
        self.begin.wait()
        try:
            self.seen[number] = self._use(self.regions[number])
        except OSError as error:
            self.seen[number] = [str(error)]

    def _use(self, region: Region) -> list[str]:
        for turn in range(32):
            region.advise(mmap.MADV_DONTNEED, 4 * turn, 4 * turn + 2)
            region.protect(READ, 200, 256)
            region.write(4 * turn, region.mark(4 * turn))
            region.protect(READ | WRITE, 200, 256)
        region.remap(300)
        return region.look(0, 8) + region.look(128)

    def observe(self) -> Answer:
        self.begin.set()
        for thread in self.threads:
            thread.join()
        return {"seen": self.seen}


@behaviour
class MappedLocked(Behaviour):
    """mlock and mlockall of memory with content."""

    root_only = True

    def set_up(self) -> None:
        self.region = Region()
        self.locked = Region()
        call("mlock", ctypes.c_void_p(self.locked.address), self.locked.size)

    def _locked(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmLck"))

    def observe(self) -> Answer:
        before = self._locked()
        result = attempt(lambda: call("mlock", ctypes.c_void_p(self.region.address), 64 * PAGE))
        answer = {
            "before": before,
            "mlock": [result, self._locked() - before],
            "DONTNEED": attempt(lambda: self.region.advise(mmap.MADV_DONTNEED, 0, 8)),
            "DONTNEED_LOCKED": attempt(lambda: self.region.advise(DONTNEED_LOCKED, 0, 8)),
            "content": self.region.look(),
            "mlockall": attempt(lambda: call("mlockall", 1)),
            "munlockall": attempt(lambda: call("munlockall")),
        }
        return answer | {"after": self._locked(), "locked": self.locked.look()}


@behaviour
class MappedMaps(Behaviour):
    """/proc/self/maps: the ranges and permissions are those from before."""

    def set_up(self) -> None:
        self.regions = [Region(64), Region(256)]
        self.regions[1].protect(READ, 100, 150)
        self.regions[1].advise(DONTFORK, 200, 210)
        self.before = self._ranges()

    def _ranges(self) -> list[tuple[str, ...]]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        found = []
        for line in lines:
            place, permissions, *_ = line.split()
            start, end = (int(part, 16) for part in place.split("-"))
            if any(one.address < end and start < one.address + one.size for one in self.regions):
                found.append((place, permissions))
        return found

    def observe(self) -> Answer:
        return {
            "same": self._ranges() == self.before,
            "permissions": [permissions for _, permissions in self.before],
        }


@behaviour
class MappedThroughProc(Behaviour):
    """/proc/self/mem and process_vm_readv: read and written as the process itself does."""

    def set_up(self) -> None:
        self.region = Region()

    def observe(self) -> Answer:
        region = self.region
        region.protect(READ, 10, 11)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            read = [os.pread(memory.fileno(), 12, region.at(page)).decode() for page in (0, 99)]
            os.pwrite(memory.fileno(), b"through proc", region.at(10))
            os.pwrite(memory.fileno(), b"through proc", region.at(20))
        into = ctypes.create_string_buffer(12)
        local = struct.pack("PN", ctypes.addressof(into), 12)
        remote = struct.pack("PN", region.at(20), 12)
        count = attempt(
            lambda: call(
                "process_vm_readv", os.getpid(), local, ctypes.c_ulong(1), remote,
                ctypes.c_ulong(1), ctypes.c_ulong(0),
            )
        )  # fmt: skip
        return {"read": read, "count": count, "vm": into.raw.decode(), "look": region.look()}


@behaviour
class MappedExec(Behaviour):
    """Programs that are started: by vfork, and one with memory of its own at the same address."""

    PROGRAM = """
import sys; sys.path.insert(0, "/opt")
from workloads.region import Region
region = Region(128, address=int(sys.argv[1]))
region.advise(4, 0, 64)
region.remap(200)
print(region.look())
"""

    def set_up(self) -> None:
        self.region = Region()

    def observe(self) -> Answer:
        statuses = []
        for _ in range(5):
            pid = os.posix_spawn("/bin/true", ["true"], {})
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            statuses.append(subprocess.run(["/bin/true"], check=False).returncode)
        command = [sys.executable, "-c", self.PROGRAM, str(self.region.address)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return {"statuses": statuses, "own": done.stdout + done.stderr, "look": self.region.look()}


@behaviour
class MappedNames(Behaviour):
    """Names for anonymous memory (PR_SET_VMA_ANON_NAME), msync and the like."""

    def set_up(self) -> None:
        self.region = Region()

    def observe(self) -> Answer:
        address, size = ctypes.c_void_p(self.region.address), ctypes.c_ulong(16 * PAGE)
        name = ctypes.create_string_buffer(b"region")
        set_vma = 0x53564D41
        return {
            "name": attempt(lambda: call("prctl", set_vma, ctypes.c_ulong(0), address, size, name)),
            "msync": attempt(lambda: call("msync", address, size, 4)),
            "look": self.region.look(),
        }


@behaviour
class MappedFaults(Behaviour):
    """userfaultfd on memory with content: pages given back are filled by a thread."""

    API, REGISTER, COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03
    NUMBER = 323
    USER_MODE_ONLY = 1

    def set_up(self) -> None:
        self.region = Region()

    def observe(self) -> Answer:
        if platform.machine() != "x86_64":
            return {}
        flags = os.O_CLOEXEC | self.USER_MODE_ONLY
        fd = attempt(lambda: call("syscall", self.NUMBER, flags))
        if not isinstance(fd, int):
            return {"userfaultfd": fd}
        fcntl.ioctl(fd, self.API, struct.pack("QQQ", 0xAA, 0, 0))
        argument = struct.pack("QQQQ", self.region.address, 64 * PAGE, 1, 0)
        registered = attempt(lambda: len(fcntl.ioctl(fd, self.REGISTER, argument)))
        before = self.region.look()
        thread = threading.Thread(target=self._fill, args=(fd,))
        thread.start()
        self.region.advise(mmap.MADV_DONTNEED, 5, 6)
        # string_at would wait for the fault with the interpreter's lock held; write(2) does not.
        reader, writer = os.pipe()
        written = attempt(lambda: call("write", writer, ctypes.c_void_p(self.region.at(5)), 8))
        if not isinstance(written, int):  # user mode only: not in the kernel's name
            ctypes.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
            libc.memcpy(ctypes.create_string_buffer(8), ctypes.c_void_p(self.region.at(5)), 8)
        thread.join()
        os.close(reader)
        os.close(writer)
        os.close(fd)
        return {
            "registered": registered,
            "before": before,
            "filled": self.region.read(5, 6).decode(),
        }

    def _fill(self, fd: int) -> None:
        message = os.read(fd, 32)
        address = struct.unpack("QQQQ", message)[2] & -PAGE
        page = Region(1, fill=False)
        page.write(0, b"filled")
        fcntl.ioctl(fd, self.COPY, struct.pack("QQQQq", address, page.address, PAGE, 0, 0))


@behaviour
class MappedProcessAdvice(Behaviour):
    """process_madvise on oneself: what it gives back is zero, or it may not."""

    NUMBER = 440

    def set_up(self) -> None:
        self.region = Region()

    def observe(self) -> Answer:
        pidfd = os.pidfd_open(os.getpid())
        vector = struct.pack("PN", self.region.address, 16 * PAGE)
        given = attempt(
            lambda: call(
                "syscall", self.NUMBER, pidfd, vector, ctypes.c_ulong(1), mmap.MADV_DONTNEED, 0
            )
        )
        os.close(pidfd)
        return {"given": given, "look": self.region.look()}


@behaviour
class BigMemory(Behaviour):
    """64 MiB of memory that no other process has: what it costs where it is mapped."""

    needs = "BIG_MEMORY"

    def set_up(self) -> None:
        self.memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.write(os.urandom(64 << 20))
        self.before = hashlib.sha256(self.memory).hexdigest()

    def observe(self) -> Answer:
        return {"before": self.before, "now": hashlib.sha256(self.memory).hexdigest()}


@behaviour
class BigTree(BigMemory):
    """The same with three children that have it in common, but for one page each."""

    needs = "BIG_MEMORY"

    def set_up(self) -> None:
        super().set_up()
        self.children = []
        for number in range(3):
            ours, theirs = socket.socketpair()
            if os.fork() == 0:
                self.memory[number * PAGE] ^= 0xFF
                theirs.sendall(b"ready")
                theirs.recv(1)
                self.memory[number * PAGE] ^= 0xFF
                theirs.sendall(hashlib.sha256(self.memory).hexdigest().encode())
                signal.pause()
            ours.recv(5)
            self.children.append(ours)

    def observe(self) -> Answer:
        seen = []
        for child in self.children:
            child.sendall(b"?")
            seen.append(child.recv(64).decode())
        return {**super().observe(), "children": seen}
