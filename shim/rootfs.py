"""The writable layer of a container, read at capture into a tar in the layout of an OCI layer.

Read from the overlay's upper directory while the container stands still: a whiteout (character
device 0:0, or a file marked as one) becomes ``.wh.NAME``, an opaque directory gets
``.wh..wh..opq``, a renamed directory (``redirect_dir``) is written whole from the merged view,
and a file of which only the metadata was copied up (``metacopy``) takes its content from there.
PAX headers keep nanoseconds, extended attributes (``SCHILY.xattr.``) and names that are not
UTF-8; large holes are kept as GNU sparse 1.0. Sockets are left out: CRIU makes them again.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from shim import mounts
from shim.errors import Unfit

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
"""OCI image-spec, layer.md: whiteouts."""

XATTR = "SCHILY.xattr."

_SPARSE_GAIN = 1 << 20
"""Holes below this many bytes are written as zeros: the header would cost as much."""

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """An overlay mount, as far as reading its upper layer needs it."""

    merged: Path
    upper: Path
    prefix: str
    """Of overlayfs' own extended attributes: ``trusted.overlay.`` or ``user.overlay.``."""


@dataclass
class _Writer:
    tar: tarfile.TarFile
    skip: Collection[str]
    check: Callable[[], None]
    entries: int = 0
    links: dict[tuple[int, int], str] = field(default_factory=dict)
    """Inode with several names → the name under which its content was written."""


def overlay_at(rootfs: Path, listed: list[mounts.Mounted] | None = None) -> Overlay:
    """The overlay mounted at ``rootfs``; Unfit when something else is."""
    mounted = mounts.at(str(rootfs), listed)
    upper = mounted.option("upperdir") if mounted and mounted.type == "overlay" else None
    if mounted is None or not upper:
        found = f"a {mounted.type} filesystem" if mounted else "no mount"
        raise Unfit(
            f"the container's root filesystem {rootfs} is {found}; "
            "Podthaw reads the writable layer of overlay (containerd's overlayfs snapshotter)"
        )
    prefix = "user.overlay." if "userxattr" in mounted.options else "trusted.overlay."
    return Overlay(merged=rootfs, upper=Path(upper), prefix=prefix)


def pack(
    overlay: Overlay,
    target: Path,
    mount_points: Iterable[str] = (),
    *,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Write the writable layer to the tar ``target``; returns the number of entries.

    ``mount_points`` are absolute paths inside the container over which something is mounted: the
    empty file or directory that the runtime made there is not the container's and is left out.
    With no entry at all no file is left. ``check`` is called now and then and may raise, to give
    up. Raises OSError (a full disk among them) and Unfit.
    """
    skip = {path.strip("/") for path in mount_points}
    return _write(target, skip, check, lambda writer: _layer(writer, overlay))


def pack_folder(folder: Path, target: Path, *, check: Callable[[], None] = lambda: None) -> int:
    """Write the content of an ordinary folder to the tar ``target``, as :func:`pack` does."""
    return _write(target, (), check, lambda writer: _plain(writer, folder, ""))


def _write(
    target: Path,
    skip: Collection[str],
    check: Callable[[], None],
    fill: Callable[[_Writer], None],
) -> int:
    fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with (
        os.fdopen(fd, "wb") as file,
        tarfile.open(
            fileobj=file,
            mode="w",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar,
    ):
        tar.copybufsize = 1 << 20  # type: ignore[attr-defined]
        writer = _Writer(tar, skip, check)
        fill(writer)
    if not writer.entries:
        target.unlink()
    return writer.entries


def _layer(writer: _Writer, overlay: Overlay) -> None:
    """Every entry of the upper directory, a directory before what is in it."""
    pending = [""]
    while pending:
        path = pending.pop()
        folders = []
        for name in _names(overlay.upper / path):
            inside = f"{path}/{name}" if path else name
            if _layer_entry(writer, overlay, inside, name):
                folders.append(inside)
        pending.extend(reversed(folders))


def _layer_entry(writer: _Writer, overlay: Overlay, path: str, name: str) -> bool:
    """Write one entry of the upper directory; True for a directory still to be walked."""
    source = overlay.upper / path
    status = os.lstat(source)
    marks = _overlay_marks(source, overlay.prefix)
    if _is_whiteout(status, marks):
        parent, slash, _ = path.rpartition("/")
        _add_empty(writer, f"{parent}{slash}{WHITEOUT}{name}")
        return False
    if name.startswith(WHITEOUT):
        raise Unfit(
            f"the container has a file /{path}, and names that begin with {WHITEOUT} "
            "mean deletions in an image layer"
        )
    if path in writer.skip and _is_empty(source, status):
        return False
    if stat.S_ISDIR(status.st_mode):
        redirected = "redirect" in marks
        _add(writer, source, path, status, overlay.prefix)
        if redirected or marks.get("opaque") == b"y":
            _add_empty(writer, f"{path}/{OPAQUE}")
        if redirected:
            _plain(writer, overlay.merged, path)
            return False
        return True
    content = overlay.merged / path if "metacopy" in marks else source
    _add(writer, content, path, status, overlay.prefix)
    return False


def _plain(writer: _Writer, root: Path, top: str) -> None:
    """All below ``root/top`` with names relative to ``root``."""
    pending = [top]
    while pending:
        path = pending.pop()
        folders = []
        for name in _names(root / path):
            inside = f"{path}/{name}" if path else name
            status = os.lstat(root / inside)
            _add(writer, root / inside, inside, status, "")
            if stat.S_ISDIR(status.st_mode):
                folders.append(inside)
        pending.extend(reversed(folders))


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def _is_whiteout(status: os.stat_result, marks: dict[str, bytes]) -> bool:
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    return stat.S_ISREG(status.st_mode) and "whiteout" in marks


def _is_empty(path: Path, status: os.stat_result) -> bool:
    if stat.S_ISDIR(status.st_mode):
        with os.scandir(path) as entries:
            return next(entries, None) is None
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def _xattrs(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return
        raise
    for name in names:
        try:
            yield name, os.getxattr(path, name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise


def _overlay_marks(path: Path, prefix: str) -> dict[str, bytes]:
    return {
        name.removeprefix(prefix): value for name, value in _xattrs(path) if name.startswith(prefix)
    }


def _add_empty(writer: _Writer, path: str) -> None:
    info = tarfile.TarInfo(path)
    info.mode = 0o600
    writer.tar.addfile(info)
    writer.entries += 1


def _add(writer: _Writer, source: Path, path: str, status: os.stat_result, prefix: str) -> None:
    writer.check()
    mode = status.st_mode
    if stat.S_ISSOCK(mode):
        return
    info = tarfile.TarInfo(path)
    info.mode = stat.S_IMODE(mode)
    info.uid, info.gid = status.st_uid, status.st_gid
    info.mtime = status.st_mtime_ns // 10**9
    inode = (status.st_dev, status.st_ino)
    if status.st_nlink > 1 and not stat.S_ISDIR(mode):
        first = writer.links.setdefault(inode, path)
        if first != path:
            info.type, info.linkname = tarfile.LNKTYPE, first
            writer.tar.addfile(info)
            writer.entries += 1
            return
    info.pax_headers = _headers(source, status, prefix)
    if stat.S_ISREG(mode):
        _add_file(writer, source, info)
        return
    _set_type(info, source, status)
    writer.tar.addfile(info)
    writer.entries += 1


def _headers(source: Path, status: os.stat_result, prefix: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    if status.st_mtime_ns % 10**9:
        headers["mtime"] = _seconds(status.st_mtime_ns)
    for name, value in _xattrs(source):
        if not (prefix and name.startswith(prefix)):
            headers[XATTR + name] = os.fsdecode(value)
    return headers


def _set_type(info: tarfile.TarInfo, source: Path, status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(source)
    elif stat.S_ISFIFO(mode):
        info.type = tarfile.FIFOTYPE
    else:
        info.type = tarfile.CHRTYPE if stat.S_ISCHR(mode) else tarfile.BLKTYPE
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)


def _add_file(writer: _Writer, source: Path, info: tarfile.TarInfo) -> None:
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        info.size = status.st_size
        holes = status.st_size - status.st_blocks * 512
        regions = _data_regions(fd, status.st_size) if holes >= _SPARSE_GAIN else None
        if regions is not None:
            _add_sparse(writer, file, info, regions)
        else:
            content = _Regions(b"", file, [(0, info.size)], writer.check)
            writer.tar.addfile(info, content)
    writer.entries += 1


def _data_regions(fd: int, size: int) -> list[tuple[int, int]] | None:
    """Offsets and lengths of a file's data; None when the filesystem does not tell of holes."""
    regions = []
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            return None
        regions.append((start, min(end, size) - start))
        offset = end
    return regions


def _add_sparse(
    writer: _Writer, file: BinaryIO, info: tarfile.TarInfo, regions: list[tuple[int, int]]
) -> None:
    """A file with holes as GNU tar's PAX format 1.0: a map of the regions, then their data.

    https://www.gnu.org/software/tar/manual/html_node/PAX-1.html
    """
    if not regions or sum(regions[-1]) < info.size:
        regions = [*regions, (info.size, 0)]
    numbers = [len(regions), *(number for region in regions for number in region)]
    table = "".join(f"{number}\n" for number in numbers).encode()
    table += bytes(-len(table) % _BLOCK)
    info.pax_headers = {
        **info.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str(info.size),
    }
    info.name = f"GNUSparseFile.0/{os.path.basename(info.name)}"
    info.size = len(table) + sum(length for _, length in regions)
    writer.tar.addfile(info, _Regions(table, file, regions, writer.check))


class _Regions(io.RawIOBase):
    """The bytes of an entry: a table, then one region of the file after the other."""

    def __init__(
        self,
        table: bytes,
        file: BinaryIO,
        regions: list[tuple[int, int]],
        check: Callable[[], None],
    ) -> None:
        self._head = table
        self._check = check
        self._file = file
        self._regions = [region for region in regions if region[1]]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self._check()
        parts = [self._head[:size]]
        self._head = self._head[size:]
        left = size - len(parts[0])
        while left > 0 and self._regions:
            offset, length = self._regions[0]
            data = os.pread(self._file.fileno(), min(left, length), offset)
            if not data:
                raise OSError(errno.EIO, "a file became shorter while it was read")
            parts.append(data)
            left -= len(data)
            if len(data) == length:
                self._regions.pop(0)
            else:
                self._regions[0] = (offset + len(data), length - len(data))
        return b"".join(parts)


def _seconds(nanoseconds: int) -> str:
    # Floor division keeps the fraction positive, also before 1970.
    whole, fraction = divmod(nanoseconds, 10**9)
    if whole < 0 and fraction:
        return f"-{-whole - 1}.{10**9 - fraction:09d}"
    return f"{whole}.{fraction:09d}"
