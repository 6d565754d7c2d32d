"""The mount by which a restored container reaches the memory that is mapped into its processes.

Only ``runc restore`` is told of it: a cold start, the runtime's other commands and kubelet see
nothing. It is read-only and shows one file, ``pages`` of the snapshot. It stays for as long as the
container lives, since a later dump has to find the file of each mapping below a mount that it
knows. ``noexec`` would forbid mapping code that a program has made itself, so it is not set.
"""

from __future__ import annotations

import os
import stat

from shim import mounts
from shim import spec as oci
from shim.errors import Unfit
from shim.memory import MOUNT_POINT, PAGES

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_OPTIONS = ["bind", "ro", "nosuid", "nodev"]
_ROOTS = (f"/{PAGES}", f"/{PAGES}//deleted")
"""How the root of the mount ends in mountinfo, while the snapshot is there and after it is gone."""


def add(spec: oci.Spec, source: str) -> oci.Spec:
    """The configuration with the mount of ``source``, the ``pages`` of a snapshot."""
    mount = {"destination": MOUNT_POINT, "type": "bind", "source": source, "options": _OPTIONS}
    return {**spec, "mounts": [*oci.spec_mounts(spec), mount]}


def check(spec: oci.Spec, rootfs: str) -> None:
    """Unfit when the container itself has something where the mount belongs."""
    taken = taken_by(spec, rootfs)
    if taken:
        raise Unfit(f"this container has {taken}, where Podthaw mounts the snapshot's memory")


def taken_by(spec: oci.Spec, rootfs: str | Path) -> str:
    """What a container has where the mount belongs, in words; empty when there is nothing.

    ``rootfs`` is that of a container without the mount.
    """
    for mount in oci.spec_mounts(spec):
        place = os.path.normpath("/" + str(mount.get("destination", "")).lstrip("/"))
        if place == MOUNT_POINT or place.startswith(MOUNT_POINT + "/"):
            return f"a mount at {place}"
    if os.path.lexists(os.path.join(rootfs, MOUNT_POINT.lstrip("/"))):
        return f"a file {MOUNT_POINT}"
    return ""


def is_ours(mount: mounts.Mounted) -> bool:
    """Whether a mount of a container, none of its configuration, is the one of its memory."""
    return mount.target == MOUNT_POINT and "ro" in mount.flags and mount.root.endswith(_ROOTS)


def of(listed: Sequence[mounts.Mounted]) -> mounts.Mounted | None:
    """The mount among all of a container's, if it was restored with mapped memory."""
    return next((mount for mount in listed if is_ours(mount)), None)


def open_pages(pid: int, listed: Sequence[mounts.Mounted]) -> int | None:
    """Open the file that is mapped into the processes of the container whose first one is ``pid``.

    It can be read as long as it is open, also after its snapshot was removed. None when the
    container has none; Unfit when it cannot be opened.
    """
    if of(listed) is None:
        return None
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(f"/proc/{pid}/root{MOUNT_POINT}", flags)
    except OSError as error:
        raise Unfit(f"the container's {MOUNT_POINT} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Unfit(f"the container's {MOUNT_POINT} is not a regular file")
    return fd


def stored(pid: int, listed: Sequence[mounts.Mounted]) -> int:
    """Bytes on disk of the file of a container's mapped memory; 0 when it has none."""
    fd = open_pages(pid, listed)
    if fd is None:
        return 0
    try:
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


def external_file(pid: int, listed: Sequence[mounts.Mounted]) -> list[str]:
    """How CRIU is told to leave the file alone whose snapshot was removed, if that is so.

    It saves the content of a file without a name, which here is all of the memory, while the
    container stands still.
    """
    mount, fd = of(listed), open_pages(pid, listed)
    if mount is None or fd is None:
        return []
    try:
        return _external_file(mount, os.fstat(fd))
    finally:
        os.close(fd)


def _external_file(mount: mounts.Mounted, status: os.stat_result) -> list[str]:
    return [] if status.st_nlink else [f"file[{mount.id:x}:{status.st_ino:x}]"]
