"""Putting a snapshot into the store: written aside, checked, synced, then renamed into place.

A reader sees a snapshot whole or not at all, after a crash too: everything in it is on disk
before the rename, and the rename is on disk before its name is given out. Two nodes that publish
the same snapshot at once both succeed, since the same digest means the same content.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cri.store import artifacts
from cri.store.files import FULL, SNAPSHOTS, TMP, Area, write_all
from cri.store.refs import hex_of
from shim import snapshot
from shim.errors import Broken, Unfit

_ATTEMPTS = 3


@contextmanager
def stage(area: Area) -> Iterator[Path]:
    """A private empty folder in the store's ``tmp/`` to build a snapshot in.

    Hand it to :func:`publish`; when the block ends otherwise, the folder is removed.
    """
    area.create()
    folder = area.root / TMP / area.fresh_name()
    with area.sentences("take a new snapshot"), area.folder(TMP) as tmp:
        os.mkdir(folder.name, 0o700, dir_fd=tmp)
    try:
        yield folder
    except OSError as error:
        if error.errno in FULL:  # whoever fills the folder meets a full disk first
            raise area.explain(error, "take a new snapshot") from error
        raise
    finally:
        with suppress(OSError):  # even with ignore_errors it lets some through
            shutil.rmtree(folder, ignore_errors=True)


def publish(area: Area, folder: Path, manifest: bytes) -> str:
    """Publish a staged folder under the digest of these manifest bytes, which is returned.

    The folder holds exactly the manifest's artifacts; ``manifest.json`` is written here. If the
    store has the snapshot, that is success and the staged folder is dropped. Raises Broken when
    folder and manifest differ, Unfit when the store cannot take it.
    """
    digest = snapshot.digest(manifest)
    content = snapshot.decode(manifest)
    with area.sentences("take a new snapshot"):
        if folder.parent != area.root / TMP or folder.is_symlink() or not folder.is_dir():
            raise Broken(f"{folder} is not a staged folder of the store {area.root}")
        artifacts.require(artifacts.check_listing(folder, content), digest)
        _write_manifest(folder, manifest)
        _seal(folder)
        for _ in range(_ATTEMPTS):
            if _move_in(area, folder, digest):
                return digest
    raise Unfit(f"the snapshot {digest} is being changed by another node: try again")


def _write_manifest(folder: Path, manifest: bytes) -> None:
    path = folder / snapshot.MANIFEST
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, manifest)
    finally:
        os.close(fd)


def _seal(folder: Path) -> None:
    """Make everything private and put it on disk, folders after what they hold."""
    for path, status in artifacts.walk(folder):
        directory = stat.S_ISDIR(status.st_mode)
        _sync(folder / path, mode=0o700 if directory else 0o600)
    os.utime(folder)  # its time says when it was published: what is new is not yet an orphan
    _sync(folder, mode=0o700)


def _sync(path: Path, mode: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def _move_in(area: Area, folder: Path, digest: str) -> bool:
    """Rename the folder into place; False when it should be tried again."""
    name = hex_of(digest)
    target = area.root / SNAPSHOTS / name
    with area.folder(TMP) as tmp, area.folder(SNAPSHOTS, create=True) as snapshots:
        try:
            os.rename(folder.name, name, src_dir_fd=tmp, dst_dir_fd=snapshots)
        except OSError:
            # There already (two nodes at once, or a network file system that answers a repeated
            # rename with an error): good when it is whole, in the way when it is not.
            if not target.is_dir() or target.is_symlink():
                raise
            if not _is_whole(target, digest):
                os.rename(name, area.fresh_name(), src_dir_fd=snapshots, dst_dir_fd=tmp)
                return False
            os.utime(name, dir_fd=snapshots, follow_symlinks=False)
        os.fsync(snapshots)
    return True


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        content = snapshot.read(folder, digest)
    except Broken:
        return False
    return not artifacts.check_listing(folder, content)
