"""Memory file systems that a restore makes for CRIU (:mod:`shim.criu.tmpfs` says why)."""

from __future__ import annotations

import json
import os
import stat

from shim import mounts
from shim.errors import Unfit

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from typing import Any

_MS_RDONLY, _MS_REMOUNT = 1, 32


def make(plan: str, work: str) -> list[str]:
    """Mount and fill those of a plan's file in the folder ``work``.

    Returns what CRIU's configuration must say of them. They are taken off when the folder is
    cleaned (:func:`shim.undo.clean_after_criu`); what CRIU has bound stays. Raises Unfit.
    """
    with open(plan, "rb") as file:
        wanted = json.load(file)
    lines = []
    before = os.umask(0)
    try:
        for number, one in enumerate(wanted):
            place = f"{work}/memory-{number}"
            os.mkdir(place, 0o700)
            _make(one, place)
            lines.append(f"external mnt[{one['key']}]:{place}\n")
    except OSError as error:
        raise Unfit(f"a memory file system cannot be made: {error.strerror}") from error
    finally:
        os.umask(before)
    return lines


def _make(wanted: dict[str, Any], place: str) -> None:
    mounts.mount(wanted["source"], place, "tmpfs", 0, wanted["options"])
    top = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in wanted["entries"]:
            if entry["path"]:
                _create(entry, top)
            _dress(entry, entry["path"] or ".", top)
        for entry in reversed(wanted["entries"]):  # a folder changes when something is made in it
            seconds = entry["modified"]
            path = entry["path"] or "."
            os.utime(path, (seconds, seconds), dir_fd=top, follow_symlinks=False)
    finally:
        os.close(top)
    if wanted["flags"] & _MS_RDONLY:
        mounts.mount("", place, "", _MS_REMOUNT | _MS_RDONLY, "")


def _create(entry: dict[str, Any], top: int) -> None:
    """Make one file. No folder above it is a link: all of them were made here just now."""
    path, mode = entry["path"], entry["mode"]
    if stat.S_ISLNK(mode):
        os.symlink(entry["target"], path, dir_fd=top)
    elif stat.S_ISDIR(mode):
        os.mkdir(path, dir_fd=top)
    else:
        os.mknod(path, mode, os.makedev(*entry["device"]), dir_fd=top)


def _dress(entry: dict[str, Any], path: str, top: int) -> None:
    os.chown(path, entry["owner"], entry["group"], dir_fd=top, follow_symlinks=False)
    if not stat.S_ISLNK(entry["mode"]):
        os.chmod(path, stat.S_IMODE(entry["mode"]), dir_fd=top)
