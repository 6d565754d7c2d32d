"""Where the files are that a container watches with inotify or fanotify.

The kernel tells only device and inode of a watched file. On an overlay CRIU cannot open such an
inode by its handle and searches for its path instead, in folders it is told of; so the paths are
looked up here, before anything is frozen.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from shim import procfs
from shim.container import ContainerRef

SEARCH_SECONDS = 10.0
"""A search of the root filesystem that takes longer is given up; CRIU then says what it lacks."""


def paths(container: ContainerRef) -> list[str]:
    """Paths inside the container of the watched files of its root filesystem."""
    wanted = _watched(container)
    root = container.rootfs
    try:
        device = procfs.kernel_device(os.stat(root).st_dev)
    except OSError:
        return []
    inodes = {inode for found, inode in wanted if found == device}
    return find(root, inodes)


def find(root: Path, inodes: Iterable[int], seconds: float = SEARCH_SECONDS) -> list[str]:
    """One path, absolute below ``root``, for each inode of root's own file system found there."""
    missing = set(inodes)
    found: list[str] = []
    end = time.monotonic() + seconds
    if missing and _inode(root) in missing:
        missing.discard(_inode(root))
        found.append("/")
    pending = [""] if missing else []
    while pending and missing and time.monotonic() < end:
        folder = pending.pop()
        try:
            with os.scandir(f"{root}/{folder}") as scan:
                entries = list(scan)
        except OSError:
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}"
            is_folder = entry.is_dir(follow_symlinks=False)
            # The inode in a directory's listing is not that of stat for merged directories.
            inode = _inode(Path(entry.path)) if is_folder else entry.inode()
            if inode in missing:
                missing.discard(inode)
                found.append(path)
            if is_folder:
                pending.append(path)
    return sorted(found)


def _watched(container: ContainerRef) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for pid in procfs.tree_pids(container):
        folder = f"/proc/{pid}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:
            continue
        for number in numbers:
            try:
                if re.match(r"anon_inode:.*notify", os.readlink(f"{folder}/{number}")):
                    text = Path(f"/proc/{pid}/fdinfo/{number}").read_text(errors="replace")
                    found.update(procfs.parse_watches(text))
            except OSError:
                continue
    return found


def _inode(path: Path) -> int:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return 0
