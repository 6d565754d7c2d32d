"""Bring a snapshot's /dev/shm content into the pod's shared memory, and take it back.

/dev/shm is one tmpfs for the whole pod, in use by its other containers: nothing that is there is
ever overwritten. Each file is written under a folder of this restore, then linked to its name,
which fails when the name is taken; its inode is on record before, so taking back never removes
a file that somebody else made.

One exception, without which a container that is restored a second time in the same pod would
never fit: a file that an earlier restore of the same container put there may be replaced, since
the processes that used it are gone. Those files are on record below ``<run>/shm``.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

from shim import members
from shim.errors import Broken, PodthawError, Unfit
from shim.record import field, record
from shim.rootfs_apply import dress, make, unwritable
from shim.treewalk import Parts, Tree, split

_COMPARE = 1 << 20
_PLACE = "/dev/shm"  # noqa: S108 - where the container sees it


@record(kw_only=True)
class Shared:
    """What a restore put into a pod's shared memory."""

    source: str
    """The folder that the pod's containers see as /dev/shm."""
    staging: str
    """Name of the folder below it where files are prepared."""
    made: dict[str, int] = field(default_factory=dict)
    """Name below ``source`` → inode of the file that is (about to be) linked there."""
    folders: list[str] = field(default_factory=list)
    """Directories that were not there before, outer ones first."""


def source_of(spec: Mapping[str, Any]) -> str:
    """The folder behind /dev/shm. Raises Unfit when the container has none of the pod's."""
    found = ""
    for mount in spec.get("mounts") or ():
        if mount.get("destination") == _PLACE and mount.get("type") == "bind":
            found = str(mount.get("source") or "")
    if not os.path.isabs(found):
        raise Unfit("the snapshot has files in /dev/shm, and this container has no shared memory")
    return os.path.realpath(found)


def extract(
    archive: str,
    shared: Shared,
    before: Mapping[str, int],
    save: Callable[[], None],
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Put the archive's files into the shared memory.

    ``before`` has the files (name → inode) of earlier restores of the same container. ``save`` is
    called whenever ``shared`` has something new on record, before it happens. Raises Broken or
    Unfit; :func:`take_back` undoes what was done.
    """
    save()
    try:
        with tarfile.open(archive, "r:", errorlevel=2) as tar, Tree(shared.source) as tree:
            os.mkdir(shared.staging, 0o700, dir_fd=tree.directory(()))
            files, folders = _prepare(tar, tree, shared, tick)
            shared.folders = ["/".join(parts) for parts, _ in folders if tree.status(parts) is None]
            shared.made.update({name: inode for name, inode, _ in files})
            save()
            _publish_folders(tree, shared, folders)
            for name, _, number in files:
                _publish(tree, shared, name, number, before)
            tree.remove((shared.staging,))
    except PodthawError:
        raise
    except members.DAMAGE as error:
        raise Broken(f"the snapshot's /dev/shm is damaged: {error}") from error
    except OSError as error:
        raise unwritable(_PLACE, error) from error


def take_back(shared: Shared) -> None:
    """Remove what :func:`extract` made, and nothing else. Safe to call again."""
    try:
        tree = Tree(shared.source)
    except FileNotFoundError:
        return  # the pod is gone and its memory with it
    with tree:
        for name, inode in shared.made.items():
            parts = split(name)
            try:
                status = tree.status(parts)
                if status is not None and status.st_ino == inode:
                    os.unlink(parts[-1], dir_fd=tree.directory(parts[:-1]))
            except (FileNotFoundError, Broken):
                continue
        for folder in reversed(shared.folders):
            parts = split(folder)
            try:
                os.rmdir(parts[-1], dir_fd=tree.directory(parts[:-1]))
            except (OSError, Broken):
                continue  # somebody has put something there meanwhile
        tree.forget()
        tree.remove((shared.staging,))


def remember(run: str, sandbox: str, container: str, made: Mapping[str, int]) -> None:
    """Record that the files of ``made`` belong to restores of ``container`` in ``sandbox``."""
    folder = f"{run}/shm/{sandbox}"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = f"{folder}/{container}"
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump({**remembered(run, sandbox, container), **made}, file)
    os.replace(f"{path}.new", path)


def remembered(run: str, sandbox: str, container: str) -> dict[str, int]:
    """Files (name → inode) that earlier restores of ``container`` made in this sandbox."""
    try:
        with open(f"{run}/shm/{sandbox}/{container}", encoding="utf-8") as file:
            return {str(name): int(inode) for name, inode in json.load(file).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def forget(run: str, sandbox: str) -> None:
    """Drop the records of a sandbox that is gone."""
    import shutil  # noqa: PLC0415 - the end of a pod is the only time

    shutil.rmtree(f"{run}/shm/{sandbox}", ignore_errors=True)


def _prepare(
    tar: tarfile.TarFile, tree: Tree, shared: Shared, tick: Callable[[], None]
) -> tuple[list[tuple[str, int, int]], list[tuple[Parts, tarfile.TarInfo]]]:
    """Write every file into the staging folder under a number: (name, inode, number)."""
    files: list[tuple[str, int, int]] = []
    folders: list[tuple[Parts, tarfile.TarInfo]] = []
    numbers: dict[str, int] = {}
    for number, member in enumerate(members.read(tar, tick)):
        parts = split(member.name)
        if member.isdir():
            if parts:
                folders.append((parts, member))
            continue
        folder = tree.directory((shared.staging,))
        if not parts or parts[0] == shared.staging or not _is_allowed(member):
            raise Broken(
                f"the snapshot's /dev/shm has {member.name[:200]!r} of tar type {member.type!r}: "
                "only files, directories, links and fifos are allowed"
            )
        name = "/".join(parts)
        if member.islnk():
            first = numbers.get("/".join(split(member.linkname)))
            if first is None:
                raise Broken(f"the snapshot's /dev/shm has a hard link to {member.linkname!r}")
            os.link(
                str(first), str(number), src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False
            )
        else:
            make(tar, folder, str(number), member, tick)
        numbers[name] = number
        inode = os.stat(str(number), dir_fd=folder, follow_symlinks=False).st_ino
        files.append((name, inode, number))
    return files, folders


def _publish_folders(
    tree: Tree, shared: Shared, folders: list[tuple[Parts, tarfile.TarInfo]]
) -> None:
    for parts, member in folders:
        if "/".join(parts) in shared.folders:
            os.mkdir(parts[-1], 0o700, dir_fd=tree.directory(parts[:-1]))
            dress(tree.directory(parts), member)


def _publish(tree: Tree, shared: Shared, name: str, number: int, before: Mapping[str, int]) -> None:
    """Give a prepared file its name, unless the name is taken by something else."""
    parts = split(name)
    status = tree.status(parts)
    with tree.held((shared.staging,)) as staging:
        if status is not None:
            if before.get(name) != status.st_ino:
                folder = tree.directory(parts[:-1])
                if not _equal(staging, str(number), folder, parts[-1]):
                    raise Unfit(f"{_PLACE}/{name} is there already with other content")
                del shared.made[name]
                return
            os.rename(
                str(number),
                parts[-1],
                src_dir_fd=staging,
                dst_dir_fd=tree.directory(parts[:-1]),
            )
            return
        os.link(
            str(number),
            parts[-1],
            src_dir_fd=staging,
            dst_dir_fd=tree.directory(parts[:-1]),
            follow_symlinks=False,
        )


def _equal(left_folder: int, left: str, right_folder: int, right: str) -> bool:
    """Whether two entries are the same: links with one target, files with one content."""
    kinds = [
        stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        for name, folder in ((left, left_folder), (right, right_folder))
    ]
    if kinds[0] != kinds[1]:
        return False
    if kinds[0] == stat.S_IFLNK:
        target = os.readlink(left, dir_fd=left_folder)
        return target == os.readlink(right, dir_fd=right_folder)
    if kinds[0] != stat.S_IFREG:
        return False
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with (
        os.fdopen(os.open(left, flags, dir_fd=left_folder), "rb") as one,
        os.fdopen(os.open(right, flags, dir_fd=right_folder), "rb") as two,
    ):
        if os.fstat(one.fileno()).st_size != os.fstat(two.fileno()).st_size:
            return False
        while chunk := one.read(_COMPARE):
            if chunk != two.read(_COMPARE):
                return False
    return True


def _is_allowed(member: tarfile.TarInfo) -> bool:
    return member.isreg() or member.issym() or member.islnk() or member.isfifo()
