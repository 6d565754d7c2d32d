"""Reading and writing inside the store: private, atomic, and never through a symbolic link.

Every path is walked from the store's root one folder at a time, by descriptor and with
``O_NOFOLLOW``, so that a link planted in the store leads nowhere. What is written is written
aside in ``tmp/``, synced, and renamed into its place; only rename, link and unlink are relied on,
as they are what a shared file system keeps atomic between nodes.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shim.errors import PodthawError, Refused, Unfit

SNAPSHOTS = "snapshots"
NAMES = "names"
PINS = "pins"
USED = "used"
TMP = "tmp"
FOLDERS = (SNAPSHOTS, NAMES, PINS, USED, TMP)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of the errors that say that there is no room."""

_MAX_SMALL = 4096
_ATTEMPTS = 5


class Area:
    """The store's root folder and the ways to touch what is in it."""

    def __init__(self, root: Path, node: str | None = None) -> None:
        self.root = root
        """Absolute path of the store."""
        self.node = node_name(socket.gethostname() if node is None else node)
        """This node's name, part of the names of pins and of temporary files."""

    def create(self) -> None:
        """Make the root and its folders where they are missing, for root alone."""
        with self.sentences("be created"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in FOLDERS:
                (self.root / name).mkdir(mode=0o700, exist_ok=True)

    def is_there(self) -> bool:
        """Whether the root is a folder."""
        try:
            return self.root.is_dir()
        except OSError:
            return True  # there, and ill

    def require(self) -> None:
        """Unfit or Refused unless there is a store that can be opened."""
        with self.sentences("be opened"), self.folder():
            pass

    @contextmanager
    def sentences(self, action: str) -> Iterator[None]:
        """Turn an OSError inside into a sentence: the store cannot <action>, and why."""
        try:
            yield
        except OSError as error:
            raise self.explain(error, action) from error

    def explain(self, error: OSError, action: str) -> PodthawError:
        """The sentence for a failed system call: the store cannot <action>, and why."""
        if error.errno == errno.ENOENT and not self.is_there():
            return Unfit(
                f"there is no snapshot store at {self.root}: nothing was captured here yet, "
                "or its file system is not mounted"
            )
        if error.errno in FULL:
            return Unfit(
                f"the snapshot store {self.root} is full and cannot {action}: "
                "make room with `podthaw gc` or `podthaw remove`"
            )
        if error.errno == errno.EROFS:
            why = "it is mounted read-only"
        elif error.errno in (errno.EACCES, errno.EPERM):
            why = f"permission denied for user {os.geteuid()}"
        elif error.errno in (errno.ELOOP, errno.ENOTDIR):
            return Refused(
                f"the snapshot store {self.root} cannot {action}: a symbolic link or something "
                "else that Podthaw never puts there is in the way"
            )
        elif error.errno == errno.ESTALE:
            why = "another node changed it meanwhile, try again"
        else:
            why = (error.strerror or str(error)).lower()
        return Unfit(f"the snapshot store {self.root} cannot {action}: {why}")

    @contextmanager
    def folder(self, *parts: str, create: bool = False) -> Iterator[int]:
        """A descriptor of a folder inside the store; raises OSError when it is no real folder."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _check_private(fd, self.root)
            for part in parts:
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    if not create:
                        raise
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=fd)
                    below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def entries(self, *parts: str) -> list[str]:
        """Names in a folder of the store, sorted; none when the folder is not there.

        Names that begin with a dot are left out: no part of the store has such a name, but a
        network file system may (``.nfs…`` of an open deleted file).
        """
        try:
            with self.folder(*parts) as fd, os.scandir(fd) as scan:
                return sorted(one.name for one in scan if not one.name.startswith("."))
        except FileNotFoundError:
            if self.is_there():
                return []
            raise

    def fresh_name(self) -> str:
        """A name in ``tmp/`` that no other process of any node uses."""
        return f"{self.node}.{os.getpid()}.{secrets.token_hex(8)}"

    def write(self, data: bytes, *parts: str, sync: bool = True) -> None:
        """Put a small file in its place, whole or not at all.

        It is on disk when this returns; not ``sync`` is for what means nothing after a crash of
        the node.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return self._write(data, *parts, sync=sync)
            except FileNotFoundError:
                # The folder was empty and another process removed it meanwhile.
                if attempt == _ATTEMPTS - 1 or not self.is_there():
                    raise
        return None

    def _write(self, data: bytes, *parts: str, sync: bool) -> None:
        *folders, name = parts
        aside = self.fresh_name()
        with self.folder(TMP, create=True) as tmp, self.folder(*folders, create=True) as target:
            try:
                fd = os.open(
                    aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=tmp
                )
                try:
                    write_all(fd, data)
                    if sync:
                        os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(aside, name, src_dir_fd=tmp, dst_dir_fd=target)
            except OSError:
                with suppress(OSError):
                    os.unlink(aside, dir_fd=tmp)
                raise
            if sync:
                os.fsync(target)

    def read(self, *parts: str) -> bytes | None:
        """A small file of the store, or None when there is none.

        Raises OSError (ELOOP) when it is a link, anything but a plain file, or too large.
        """
        *folders, name = parts
        try:
            with self.folder(*folders) as folder:
                fd = os.open(
                    name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
                )
        except FileNotFoundError:
            if self.is_there():
                return None
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SMALL:
                raise OSError(errno.ELOOP, "not a small plain file")
            return os.read(fd, _MAX_SMALL)
        finally:
            os.close(fd)

    def unlink(self, *parts: str, sync: bool = True) -> bool:
        """Remove a file or link; False when it was not there.

        With ``sync`` it is gone for good when this returns, whatever happens to the node.
        """
        *folders, name = parts
        try:
            with self.folder(*folders) as folder:
                os.unlink(name, dir_fd=folder)
                if sync:
                    os.fsync(folder)
        except FileNotFoundError:
            if self.is_there():
                return False
            raise
        return True

    def status(self, *parts: str) -> os.stat_result | None:
        """``lstat`` of an entry; None when it is not there."""
        *folders, name = parts
        try:
            with self.folder(*folders) as folder:
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def rename(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        """Move ``folder/entry`` to another ``folder/entry``, for good when this returns."""
        with (
            self.folder(source[0]) as source_fd,
            self.folder(target[0], create=True) as target_fd,
        ):
            os.rename(source[1], target[1], src_dir_fd=source_fd, dst_dir_fd=target_fd)
            os.fsync(target_fd)
            os.fsync(source_fd)


def node_name(host: str) -> str:
    """A host's name as it may stand in a file name: other characters become ``-``."""
    return re.sub(r"[^a-z0-9.-]", "-", host.lower()).strip(".-")[:128] or "node"


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _check_private(fd: int, root: Path) -> None:
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o022:
        raise Refused(
            f"the snapshot store {root} can be written by other users (mode {mode:04o}): "
            f"wanted 0700, so run `chmod 0700 {root}`"
        )
