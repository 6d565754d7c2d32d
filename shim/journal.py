"""What one restore has changed so far, on disk, so that any process can undo it.

``<run>/restores/<container id>`` holds one JSON object. It is written before the first change and
brought up to date before each further one; a process that finds it unfinished and unlocked knows
that its writer died, and undoes what it lists. Once the restore has succeeded it only marks the
container as a restored one, until ``delete``.
"""

from __future__ import annotations

import fcntl
import json
import os
import time

from shim.record import field, record

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from typing import Any


@record(kw_only=True)
class Journal:
    """The record; every field that an undo needs is plain data."""

    container: str
    plan: str
    root: str
    """The runtime's ``--root``."""
    bundle: str
    runtime: str
    """Path of the runtime below."""
    global_options: list[str]
    cgroups: list[str]
    rootfs_path: str
    """Where the root filesystem is mounted; absolute, no symbolic links."""
    pid_file: str = ""
    owner: int = 0
    """Process that does the restore; it undoes everything itself on SIGTERM."""
    done: bool = False
    """The container runs, restored."""
    work: str = ""
    """Working folder of CRIU: its log, and mounts of its own while it runs. It lies beside the
    journal and not in the plan's folder, which others remove: among the mounts are the host's
    control groups."""
    log: str = ""
    """Where CRIU's log goes at the end."""
    restoring: bool = False
    """The runtime below was started: processes, mounts, groups and its state may exist."""
    rootfs: dict[str, Any] | None = None
    """:class:`shim.overlay.Layer` as a dict once the writable layer may have been changed."""
    shm: dict[str, Any] | None = None
    """What :mod:`shim.shm` needs to take back."""
    config: str = ""
    """The original config.json, kept aside at this path while the bundle's is changed."""
    stub: str = ""
    """The empty file that the runtime below makes as the mount point of mapped memory."""
    cuda: str = ""
    """How the NVIDIA driver is asked (:mod:`shim.cuda`)."""
    locked: dict[str, int] = field(default_factory=dict)
    """Processes that the driver keeps locked until ``start`` → their start times."""
    guard: list[int] = field(default_factory=list)
    """Number and start of the process that guards mapped memory (:mod:`shim.guard`)."""
    path: str = ""
    """Where the journal lies."""

    def save(self) -> None:
        """Write it so that a reader sees the old or the new record, never half of one."""
        aside = f"{self.path}.new"
        fd = os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(vars(self), file)
        os.replace(aside, self.path)

    def remove(self) -> None:
        """Forget the restore."""
        for path in (self.path, f"{self.path}.new", f"{self.path}.lock"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue


def path_of(run: str, container: str) -> str:
    """Where the journal of a container lies."""
    return f"{run}/restores/{container}"


def load(run: str, container: str) -> Journal | None:
    """The journal of a container, or None when there is none (or it is no journal)."""
    path = path_of(run, container)
    try:
        with open(path, encoding="utf-8") as file:
            return Journal(**{**json.load(file), "path": path})
    except (OSError, ValueError, TypeError):
        return None


def lock(run: str, container: str, *, wait: float = 0.0) -> int | None:
    """Hold the container's journal; a descriptor to close, or None when another one holds it.

    Children made by fork share the lock; a program started by exec does not.
    """
    folder = f"{run}/restores"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = f"{folder}/{container}.lock"
    end = time.monotonic() + wait
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() >= end:
                return None
            time.sleep(0.02)
            continue
        if _same_file(fd, path):
            return fd
        os.close(fd)  # the file was removed between open and lock


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
