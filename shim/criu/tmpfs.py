"""Contents of small memory file systems, taken out of a dump so that a restore is spared tar.

For every tmpfs of a container (/dev, the empty folder that hides parts of /proc, the one with the
cgroup v1 hierarchies) CRIU starts ``tar``, which starts ``gzip``: 3 ms each, for a handful of
device nodes and links. A restore can make those itself, in a tmpfs that CRIU then only binds: the
mount's entry becomes an external one. What is not small and simple stays with tar.

Pure. Field numbers: images/mnt.proto of CRIU 4.2; what is read and in which order:
criu/mount.c (get_mp_root) and criu/filesystems.c (tmpfs_restore).
"""

from __future__ import annotations

import io
import stat
import tarfile
import zlib
from collections.abc import Mapping

from shim.criu import images
from shim.criu.wire import Message
from shim.record import field, record

_FSTYPE, _ID, _DEVICE, _ROOT, _SOURCE, _OPTIONS = 1, 2, 3, 6, 8, 9
_PLUGIN, _EXTERNAL, _SB_FLAGS, _KEY = 12, 13, 17, 18
_TMPFS = 5

MOST_PACKED, _MOST_UNPACKED, _MOST_ENTRIES = 64 << 10, 1 << 20, 256
_KINDS = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


@record(kw_only=True, frozen=True)
class Entry:
    """A file of a tmpfs; a regular one is empty."""

    path: str
    """Relative; empty for the top."""
    mode: int
    """As in st_mode, with the type."""
    owner: int
    group: int
    modified: float
    """Unix time in seconds."""
    target: str = ""
    """Of a symbolic link."""
    device: list[int] = field(default_factory=lambda: [0, 0])
    """Major and minor number of a device node."""


@record(kw_only=True, frozen=True)
class Content:
    """A tmpfs that a restore makes."""

    key: str
    """By which CRIU is told where it is."""
    source: str
    options: str
    flags: int
    """Of its superblock: 1 is read-only."""
    entries: list[Entry]


def image_of(device: int) -> str:
    """Name of the image with the content of the tmpfs that has this device number."""
    return f"tmpfs-dev-{device}.tar.gz.img"


def devices(mounts: bytes, name: str) -> list[int]:
    """Device numbers of the tmpfs in a mountpoints image. Raises Broken."""
    found = []
    for entry in images.decode(mounts, name).entries:
        message = Message.parse(entry.message)
        if _is_whole_tmpfs(message) and message.uint(_DEVICE) not in found:
            found.append(message.uint(_DEVICE))
    return found


def take_out(
    mounts: bytes, name: str, archives: Mapping[int, bytes]
) -> tuple[bytes, list[Content]]:
    """The mountpoints image with external mounts for the tmpfs whose ``archives`` are simple.

    ``archives`` has the images of content by device number. Only the first mount of each becomes
    external, as CRIU binds the others from it. Raises Broken for a damaged image of mounts.
    """
    image = images.decode(mounts, name)
    made: list[Content] = []
    entries = {device: content(data) for device, data in archives.items()}
    for entry in image.entries:
        message = Message.parse(entry.message)
        device = message.uint(_DEVICE)
        inside = entries.get(device)
        if inside is None or not _is_whole_tmpfs(message):
            continue
        del entries[device]
        key = f"podthaw-tmpfs-{message.uint(_ID)}"
        made.append(
            Content(
                key=key,
                source=message.text(_SOURCE),
                options=message.text(_OPTIONS),
                flags=message.uint(_SB_FLAGS),
                entries=inside,
            )
        )
        message.set_bytes(_KEY, key.encode())
        entry.message = message.encode()
    return images.encode(image), made


def content(archive: bytes) -> list[Entry] | None:
    """The files in an archive of a tmpfs; None when it is not small and simple, or damaged."""
    if len(archive) > MOST_PACKED:
        return None
    entries: dict[str, Entry] = {}
    try:
        unpack = zlib.decompressobj(wbits=31)
        data = unpack.decompress(archive, _MOST_UNPACKED)
        if not unpack.eof:
            return None
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                entry = _entry(member)
                if entry is None or entry.path in entries or len(entries) == _MOST_ENTRIES:
                    return None
                parent = entry.path.rpartition("/")[0]
                if entry.path and (parent not in entries or not is_folder(entries[parent])):
                    return None
                entries[entry.path] = entry
    except (tarfile.TarError, zlib.error, ValueError, OSError, EOFError):
        return None
    return list(entries.values()) if "" in entries and is_folder(entries[""]) else None


def is_folder(entry: Entry) -> bool:
    """Whether others may be in it."""
    return stat.S_ISDIR(entry.mode)


def _entry(member: tarfile.TarInfo) -> Entry | None:
    kind = _KINDS.get(member.type)
    parts = member.name.removeprefix("./").split("/") if member.name != "." else []
    if kind is None or any(part in ("", ".", "..") or "\0" in part for part in parts):
        return None
    if member.isreg() and member.size:
        return None
    return Entry(
        path="/".join(parts),
        mode=kind | (member.mode & 0o7777),
        owner=member.uid,
        group=member.gid,
        modified=float(member.mtime),
        target=member.linkname if member.issym() else "",
        device=[member.devmajor, member.devminor]
        if member.isdev() and not member.isfifo()
        else [0, 0],
    )


def _is_whole_tmpfs(message: Message) -> bool:
    """Whether it is one that CRIU would make and fill. A security label is CRIU's to give anew."""
    return (
        message.uint(_FSTYPE) == _TMPFS
        and message.text(_ROOT) == "/"
        and not (message.uint(_PLUGIN) or message.uint(_EXTERNAL) or _KEY in message)
        and "context=" not in message.text(_OPTIONS)
    )
