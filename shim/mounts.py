"""Mounts of this process's mount namespace: reading mountinfo, mounting, unmounting.

The format is that of proc_pid_mountinfo(5). Blank, tab, newline and backslash are written as
octal escapes there, and filesystems escape more in their own options (overlay: commas too), so
options are split first and decoded afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re

from shim.record import record

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_FLAGS = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}
"""Per-mount options of mountinfo and the flags of mount(2) that make them."""

_OCTAL = re.compile(r"\\([0-7]{3})")


@record(frozen=True, kw_only=True)
class Mounted:
    """One line of mountinfo."""

    id: int
    target: str
    type: str
    source: str
    flags: list[str]
    """Per-mount options, e.g. ``rw``, ``nosuid``."""
    options: list[str]
    """The filesystem's own options, e.g. ``lowerdir=/a:/b``, decoded."""
    parent: int = 0
    """Id of the mount that this one lies on."""
    device: str = "0:0"
    """``major:minor`` of the filesystem, as in st_dev of its files."""
    root: str = "/"
    """The folder (or file) of the filesystem that is seen at ``target``."""

    def option(self, name: str) -> str | None:
        """The value of ``name=…``, or None."""
        for option in self.options:
            key, equals, value = option.partition("=")
            if key == name and equals:
                return value
        return None


def decode(text: str) -> str:
    """Undo the octal escapes of mountinfo; bytes that are no UTF-8 become surrogate escapes."""
    if "\\" not in text:  # as nearly always
        return text
    raw = _OCTAL.sub(lambda match: chr(int(match[1], 8) & 0xFF), os.fsencode(text).decode("latin1"))
    return os.fsdecode(raw.encode("latin1"))


def parse(text: str) -> list[Mounted]:
    """The mounts of a mountinfo text, in its order (later ones cover earlier ones)."""
    found = []
    for line in text.split("\n"):
        left, separator, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if not separator or len(before) < 6 or len(after) < 3:
            continue
        found.append(
            Mounted(
                id=int(before[0]),
                target=decode(before[4]),
                type=after[0],
                source=decode(after[1]),
                flags=before[5].split(","),
                options=[decode(option) for option in after[2].split(",")],
                parent=int(before[1]),
                device=before[2],
                root=decode(before[3]),
            )
        )
    return found


def read(pid: int | None = None, *, containing: str = "") -> list[Mounted]:
    """The mounts of the mount namespace of a process, or of this one. Raises OSError.

    ``containing``: only those whose line of mountinfo has this text; a node has hundreds, and
    taking all of them apart takes longer than reading them.
    """
    with open(
        f"/proc/{pid or 'self'}/mountinfo", encoding="utf-8", errors="surrogateescape"
    ) as file:
        text = file.read()
    if containing:
        text = "\n".join(line for line in text.split("\n") if containing in line)
    return parse(text)


def encode(text: str) -> str:
    """A mount point as mountinfo has it (fs/proc_namespace.c, show_mountinfo)."""
    for char in "\\ \t\n":
        text = text.replace(char, f"\\{ord(char):03o}")
    return text


def at(target: str, mounts: list[Mounted] | None = None) -> Mounted | None:
    """The topmost mount exactly at ``target`` (an absolute path without symbolic links)."""
    found = None
    for mount in read(containing=f" {encode(target)} ") if mounts is None else mounts:
        if mount.target == target:
            found = mount
    return found


def below(folder: str, mounts: list[Mounted] | None = None) -> list[str]:
    """Targets strictly below ``folder``, the ones to unmount first in front."""
    listed = read(containing=f" {encode(folder)}/") if mounts is None else mounts
    return [mount.target for mount in reversed(listed) if mount.target.startswith(folder + "/")]


def flags_of(mount: Mounted) -> int:
    """The flags that give a new mount the per-mount options of ``mount``."""
    return sum(_FLAGS.get(flag, 0) for flag in set(mount.flags))


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """Mount a filesystem; the arguments are those of the system call. Raises OSError."""
    result = _libc().mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(data)
    )
    _check(result, target)


def unmount(target: str, *, detach: bool = False) -> None:
    """umount2(2), never following a symbolic link. Raises OSError."""
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0)
    _check(_libc().umount2(os.fsencode(target), flags), target)


def unmount_all_below(folder: str) -> None:
    """Take off every mount strictly below ``folder``.

    Raises OSError when one stays: whoever deletes files below ``folder`` must know that first.
    """
    found = below(folder)
    for target in found:
        try:
            unmount(target, detach=True)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # it went with its parent
                raise
    left = below(folder) if found else []
    if left:
        raise OSError(errno.EBUSY, "still mounted", left[0])


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, target: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)
