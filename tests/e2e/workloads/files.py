"""Behaviours of open files: offsets, locks, deleted files, watches."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import select
import struct
from functools import partial
from pathlib import Path

from .behaviour import Answer, Behaviour, attempt, behaviour, call, scratch

F_OFD_SETLK = 37
IN_CREATE, IN_MODIFY, IN_DELETE = 0x100, 0x2, 0x200


@behaviour
class OpenFiles(Behaviour):
    """Offsets, flags, a descriptor shared with a child, duplicates, an open directory."""

    def set_up(self) -> None:
        self.path = Path(scratch()) / "open-files"
        self.path.mkdir()
        (self.path / "read").write_text("0123456789")
        self.reader = os.open(self.path / "read", os.O_RDONLY)
        os.lseek(self.reader, 4, os.SEEK_SET)
        self.twin = os.dup(self.reader)
        self.append = os.open(self.path / "append", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        os.write(self.append, b"before,")
        self.directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self.image = Path("/etc/passwd").open("rb", buffering=0)  # noqa: SIM115
        self.image.read(5)

    def observe(self) -> Answer:
        os.write(self.append, b"after")
        inside = os.open("append", os.O_RDONLY, dir_fd=self.directory)
        return {
            "offset": os.read(self.reader, 2).decode(),
            "shared offset": os.read(self.twin, 2).decode(),
            "append": os.read(inside, 100).decode(),
            "flags": bool(fcntl.fcntl(self.append, fcntl.F_GETFL) & os.O_APPEND),
            "cloexec": fcntl.fcntl(self.reader, fcntl.F_GETFD),
            "image offset": self.image.tell(),
            "listing": sorted(os.listdir(self.directory)),
        }


@behaviour
class DeletedFiles(Behaviour):
    """Files that are open and have no name any more: small, 8 MiB, in a gone directory."""

    LARGE = 8 << 20

    def set_up(self) -> None:
        root = Path(scratch()) / "deleted"
        (root / "inner").mkdir(parents=True)
        self.small = (root / "small").open("w+b", buffering=0)
        self.small.write(b"small content")
        self.large = (root / "large").open("w+b", buffering=0)
        self.content = hashlib.shake_256(b"large").digest(self.LARGE)
        self.large.write(self.content)
        self.inner = (root / "inner/file").open("w+b", buffering=0)
        self.inner.write(b"inner content")
        self.renamed = (root / "before").open("w+b", buffering=0)
        self.renamed.write(b"renamed content")
        (root / "before").rename(root / "after")
        for name in ("small", "large", "inner/file"):
            (root / name).unlink()
        (root / "inner").rmdir()
        self.root = root

    def observe(self) -> Answer:
        size = os.fstat(self.large.fileno()).st_size
        return {
            "small": os.pread(self.small.fileno(), 100, 0).decode(),
            "large": os.pread(self.large.fileno(), size, 0) == self.content,
            "inner": os.pread(self.inner.fileno(), 100, 0).decode(),
            "renamed": os.pread(self.renamed.fileno(), 100, 0).decode(),
            "links": [os.fstat(file.fileno()).st_nlink for file in (self.small, self.large)],
            "listing": sorted(os.listdir(self.root)),
            "offset": self.small.tell(),
        }


@behaviour
class FileLocks(Behaviour):
    """flock, POSIX and open-file-description locks hold against others."""

    def set_up(self) -> None:
        self.root = Path(scratch()) / "locks"
        self.root.mkdir()
        self.files = {}
        for name in ("flock", "posix", "ofd"):
            (self.root / name).write_text("x" * 100)
            self.files[name] = (self.root / name).open("r+")
        fcntl.flock(self.files["flock"], fcntl.LOCK_EX)
        fcntl.lockf(self.files["posix"], fcntl.LOCK_EX, 10, 20)
        fcntl.fcntl(self.files["ofd"], F_OFD_SETLK, self._lock(fcntl.F_WRLCK))

    @staticmethod
    def _lock(kind: int) -> bytes:
        return struct.pack("hhqqi4x", kind, os.SEEK_SET, 30, 5, 0)

    def _other(self) -> int:
        """What another process may not do, as bits."""
        held = 0
        tries = (
            lambda file: fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB),
            lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 25),
            lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 35),
            lambda file: fcntl.fcntl(file, F_OFD_SETLK, self._lock(fcntl.F_RDLCK)),
        )
        for bit, (name, act) in enumerate(
            zip(("flock", "posix", "posix", "ofd"), tries, strict=True)
        ):
            with (self.root / name).open("r+") as file:
                if isinstance(attempt(partial(act, file)), str):
                    held |= 1 << bit
        return held

    def observe(self) -> Answer:
        pid = os.fork()
        if pid == 0:
            os._exit(self._other())
        return {"held": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}


class Watch:
    """An inotify descriptor; the kernel interface as Python has none."""

    def __init__(self) -> None:
        self.fd = call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def add(self, path: Path, mask: int = IN_CREATE | IN_MODIFY | IN_DELETE) -> int:
        return call("inotify_add_watch", self.fd, ctypes.c_char_p(bytes(path)), mask)

    def events(self) -> list[list[object]]:
        events: list[list[object]] = []
        while select.select([self.fd], [], [], 0.3)[0]:
            data = os.read(self.fd, 65536)
            while data:
                watch, mask, _, length = struct.unpack_from("iIII", data)
                name = data[16 : 16 + length].rstrip(b"\0").decode()
                events.append([watch, mask, name])
                data = data[16 + length :]
        return events


@behaviour
class Inotify(Behaviour):
    """A watch of a directory and of a file that the program made: new events come."""

    def set_up(self) -> None:
        self.root = Path(scratch()) / "watched"
        self.root.mkdir()
        (self.root / "file").write_text("before")
        self.watch = Watch()
        self.directory = self.watch.add(self.root)
        self.file = self.watch.add(self.root / "file")

    def observe(self) -> Answer:
        early = self.watch.events()
        (self.root / "new").touch()
        with (self.root / "file").open("a") as file:
            file.write("after")
        (self.root / "new").unlink()
        return {"early": early, "events": self.watch.events()}


@behaviour
class InotifyImage(Behaviour):
    """A watch of a directory that comes from the image."""

    writes_image = True

    def set_up(self) -> None:
        self.watch = Watch()
        self.watch.add(Path("/srv"))

    def observe(self) -> Answer:
        early = self.watch.events()
        Path("/srv/watched-new").touch()
        return {"early": early, "events": self.watch.events()}


@behaviour
class InotifyVolume(Behaviour):
    """A watch of a volume's directory, as programs keep on their configuration."""

    def set_up(self) -> None:
        self.root = Path("/volume")
        self.watch = Watch()
        if self.root.is_dir():
            self.watch.add(self.root)

    def observe(self) -> Answer:
        if not self.root.is_dir():
            return {"volume": False}
        early = self.watch.events()
        (self.root / "watched-new").touch()
        return {"early": early, "events": self.watch.events()}
