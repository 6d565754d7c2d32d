"""Bring a snapshot's writable layer into a container's root filesystem before it starts.

The archive is an OCI layer (``rootfs.tar``): changed files, ``.wh.NAME`` for a deletion,
``.wh..wh..opq`` for a directory whose lower content is gone, extended attributes as PAX records.
It is applied through the mounted root filesystem, so the filesystem itself makes whiteouts,
opaque directories and copies in its own format, and nothing has to be mounted again.

The archive may come from another node and is not trusted: see :mod:`shim.treewalk` for the names;
device nodes are refused unless the container may make them itself, and so are attributes that
mean something to the overlay. Deletions come first, as the OCI layer format has it: they concern
the layers below and never what the archive itself brings.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile

from shim import members
from shim.errors import Broken, PodthawError, Unfit
from shim.treewalk import Parts, Tree, split

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

_XATTR = "SCHILY.xattr."
_XATTRS_KEPT = ("user.", "security.capability", "system.posix_acl_")
_XATTRS_REFUSED = ("trusted.", "user.overlay.")
_CHUNK = 8 << 20
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)


def apply(
    archive: str, target: str, tick: Callable[[], None] = lambda: None, *, devices: bool = False
) -> None:
    """Change the tree at ``target`` as ``archive`` says.

    ``devices`` allows device nodes: right for a container with CAP_MKNOD, whose use of them the
    request's device rules limit as they limit nodes that it makes itself. ``tick`` is called
    now and then; what it raises ends the work. Raises Broken (the archive is
    damaged or hostile) and Unfit (no room here, or the filesystem refuses); the tree is then
    half changed and must be given back with :func:`shim.overlay.reset`.
    """
    try:
        with tarfile.open(archive, "r:", errorlevel=2) as tar, Tree(target) as tree:
            entries = list(members.read(tar, tick))
            _delete(tree, entries)
            _create(tar, tree, entries, tick, devices=devices)
    except PodthawError:
        raise
    except members.DAMAGE as error:
        raise Broken(f"the snapshot's writable layer is damaged: {error}") from error
    except OSError as error:
        raise unwritable("writable layer", error) from error


def unwritable(what: str, error: OSError) -> Unfit:
    """The sentence for a part of a snapshot that this node's file system does not take."""
    reason = "there is no room left" if error.errno in _FULL else error.strerror
    where = f" ({error.filename})" if isinstance(error.filename, str) else ""
    return Unfit(f"the snapshot's {what} cannot be written here: {reason}{where}")


def _delete(tree: Tree, entries: list[tarfile.TarInfo]) -> None:
    for member in entries:
        parts = split(member.name)
        if not parts or not parts[-1].startswith(WHITEOUT):
            if any(part.startswith(WHITEOUT) for part in parts):
                raise Broken(f"the snapshot has a file in a deletion mark: {member.name[:200]!r}")
            continue
        if any(part.startswith(WHITEOUT) for part in parts[:-1]):
            raise Broken(f"the snapshot has a file in a deletion mark: {member.name[:200]!r}")
        if parts[-1] == OPAQUE:
            _if_there(tree.clear, parts[:-1])
            continue
        name = parts[-1].removeprefix(WHITEOUT)
        if name in ("", ".", "..") or name.startswith(WHITEOUT):
            raise Broken(f"the snapshot has the deletion mark {member.name[:200]!r}")
        _if_there(tree.remove, (*parts[:-1], name))


def _if_there(change: Callable[[Parts], None], parts: Parts) -> None:
    """A deletion below something that is no directory (any more) has nothing to delete."""
    try:
        change(parts)
    except (FileNotFoundError, Broken):
        return


def _create(
    tar: tarfile.TarFile,
    tree: Tree,
    entries: list[tarfile.TarInfo],
    tick: Callable[[], None],
    *,
    devices: bool,
) -> None:
    folders: list[tuple[Parts, tarfile.TarInfo]] = []
    for member in entries:
        tick()
        parts = split(member.name)
        if parts and parts[-1].startswith(WHITEOUT):
            continue
        if member.isdir():
            _folder(tree, parts)
            folders.append((parts, member))
        elif not parts:
            raise Broken("the snapshot's writable layer has a top that is no directory")
        elif member.isdev() and not member.isfifo():
            if not devices:
                raise Broken(
                    f"the snapshot has the device {member.name[:200]!r}, and this container "
                    "may not make devices (CAP_MKNOD)"
                )
            _device(tree, parts, member)
        else:
            _entry(tar, tree, parts, member, tick)
    # Last and from the bottom up: making entries changes the time of the directory around them.
    for parts, member in sorted(folders, key=lambda folder: -len(folder[0])):
        fd = tree.directory(parts)
        dress(fd, member)


def _folder(tree: Tree, parts: Parts) -> None:
    status = tree.status(parts)
    if status is not None and stat.S_ISDIR(status.st_mode):
        return
    if status is not None:
        tree.remove(parts)
    os.mkdir(parts[-1], 0o700, dir_fd=tree.directory(parts[:-1]))


def _entry(
    tar: tarfile.TarFile,
    tree: Tree,
    parts: Parts,
    member: tarfile.TarInfo,
    tick: Callable[[], None],
) -> None:
    if member.islnk():
        _hard_link(tree, parts, member)
        return
    if not (member.isreg() or member.issym() or member.isfifo()):
        raise Broken(
            f"the snapshot has {member.name[:200]!r} of tar type {member.type!r}: only files, "
            "directories, links, fifos and devices are allowed"
        )
    tree.remove(parts)
    folder, name = tree.directory(parts[:-1]), parts[-1]
    make(tar, folder, name, member, tick)


def make(
    tar: tarfile.TarFile,
    folder: int,
    name: str,
    member: tarfile.TarInfo,
    tick: Callable[[], None],
) -> None:
    """Make a file, symbolic link or fifo, whose name must be free, in an open directory."""
    if member.issym():
        os.symlink(member.linkname, name, dir_fd=folder)
        os.chown(name, member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
        os.utime(name, ns=members.times(member), dir_fd=folder, follow_symlinks=False)
        return
    if member.isfifo():
        os.mkfifo(name, 0o600, dir_fd=folder)
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)
    else:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
    try:
        if member.isreg():
            fill(tar, fd, member, tick)
        dress(fd, member)
    finally:
        os.close(fd)


def _device(tree: Tree, parts: Parts, member: tarfile.TarInfo) -> None:
    kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
    number = os.makedev(member.devmajor, member.devminor)
    if kind == stat.S_IFCHR and number == 0:  # overlay's own mark of a deletion
        raise Broken(f"the snapshot has the device {member.name[:200]!r} with the number 0:0")
    tree.remove(parts)
    folder, name = tree.directory(parts[:-1]), parts[-1]
    os.mknod(name, kind | 0o600, number, dir_fd=folder)
    os.chown(name, member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
    os.chmod(name, member.mode & 0o7777, dir_fd=folder)
    os.utime(name, ns=members.times(member), dir_fd=folder, follow_symlinks=False)


def _hard_link(tree: Tree, parts: Parts, member: tarfile.TarInfo) -> None:
    source = split(member.linkname)
    status = tree.status(source) if source else None
    if status is None or stat.S_ISDIR(status.st_mode):
        raise Broken(
            f"the snapshot has {member.name[:200]!r} as a hard link to "
            f"{member.linkname[:200]!r}, which is not there"
        )
    if source == parts:
        raise Broken(f"the snapshot has {member.name[:200]!r} as a hard link to itself")
    tree.remove(parts)
    with tree.held(source[:-1]) as folder:
        os.link(
            source[-1],
            parts[-1],
            src_dir_fd=folder,
            dst_dir_fd=tree.directory(parts[:-1]),
            follow_symlinks=False,
        )


def tar_descriptor(tar: tarfile.TarFile) -> int:
    """Descriptor of an archive that was opened by path."""
    number: int = tar.fileobj.fileno()  # type: ignore[union-attr,attr-defined,unused-ignore]
    return number


def fill(tar: tarfile.TarFile, fd: int, member: tarfile.TarInfo, tick: Callable[[], None]) -> None:
    """Copy a member's content, leaving holes where the archive has them."""
    offset = member.offset_data
    for start, length in members.regions(member):
        os.lseek(fd, start, os.SEEK_SET)
        _send(tar, fd, offset, length, tick)
        offset += length
    os.ftruncate(fd, member.size)


def _send(tar: tarfile.TarFile, fd: int, offset: int, size: int, tick: Callable[[], None]) -> None:
    """Let the kernel copy a part of the archive, which is not compressed."""
    source = tar_descriptor(tar)
    while size > 0:
        tick()
        sent = os.sendfile(fd, source, offset, min(size, _CHUNK))
        if sent == 0:
            raise Broken("the snapshot's writable layer ends in the middle of a file")
        offset, size = offset + sent, size - sent


def dress(fd: int, member: tarfile.TarInfo) -> None:
    """Owner, mode, attributes and times; in this order, since each one may undo the ones after."""
    os.fchown(fd, member.uid, member.gid)
    os.fchmod(fd, member.mode & 0o7777)
    for key, value in member.pax_headers.items():
        if key.startswith(_XATTR):
            name = key.removeprefix(_XATTR)
            if name.startswith("security.") and name != "security.capability":
                continue  # labels and measurements are this host's to give
            if name.startswith(_XATTRS_REFUSED) or not name.startswith(_XATTRS_KEPT):
                raise Broken(
                    f"the snapshot's file {member.name[:200]!r} has the attribute {name[:200]!r}, "
                    "which is not allowed"
                )
            _set_attribute(fd, member, name, value.encode("utf-8", "surrogateescape"))
    os.utime(fd, ns=members.times(member))


def _set_attribute(fd: int, member: tarfile.TarInfo, name: str, value: bytes) -> None:
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise Unfit(
            f"the attribute {name[:200]!r} of the snapshot's file {member.name[:200]!r} cannot be "
            f"set here: {error.strerror}"
        ) from error
