"""Changes to CRIU's lists of open files and of mounts, for mapped memory.

Pure: the bytes of an image in, the bytes of the image to restore out. Field numbers:
images/fdinfo.proto, regfile.proto, fown.proto and mnt.proto of CRIU 4.2, the same in 4.1; how a
restore reads them: criu/files-reg.c (open_filemap), criu/mount.c (collect_mnt_from_image).
"""

from __future__ import annotations

from collections.abc import Iterable

from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken
from shim.memory import MOUNT_POINT

# file_entry, enum fd_types
_TYPE, _ID, _REG = 1, 2, 3
_TYPE_REG = 1
# reg_file_entry
_REG_ID, _REG_FLAGS, _REG_POS, _REG_FOWN, _REG_NAME, _REG_MOUNT, _REG_EXTERNAL = 1, 2, 3, 5, 6, 7, 9
_FOWN = range(1, 6)
_O_RDONLY_LARGEFILE = 0o100000
# fdinfo_entry
_FD_ID = 1
# mnt_entry
_FSTYPE, _MOUNT_ID, _DEVICE, _PARENT_ID, _MOUNT_FLAGS = 1, 2, 3, 4, 5
_ROOT, _MOUNTPOINT, _SOURCE, _OPTIONS = 6, 7, 8, 9
_SHARED, _MASTER, _SB_FLAGS, _EXT_KEY = 10, 11, 17, 18
_FSTYPE_UNKNOWN = 0
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_RELATIME = 1, 2, 4, 1 << 21
_UNUSED_DEVICE = 0xFFFFF
"""Major number 0 and the last minor number: of no file system that is mounted, so that CRIU does
not look for another mount of the same one."""

_POINT = MOUNT_POINT.encode()


def pages_files(data: bytes, name: str = "files.img") -> frozenset[int]:
    """The ids of the files that are an earlier snapshot's memory. Raises Broken.

    A file whose snapshot was removed is external for CRIU (:func:`shim.pagesmount.external_file`)
    and the only file that is.
    """
    found = set()
    for entry in _decode(data, images.FILES, name).entries:
        file = Message.parse(entry.message)
        if file.uint(_TYPE) == _TYPE_REG:
            reg = file.message(_REG)
            if reg.uint(_REG_EXTERNAL) or reg.blob(_REG_NAME) == _POINT:
                found.add(file.uint(_ID))
    return frozenset(found)


def opened(data: bytes, ids: frozenset[int], name: str) -> bool:
    """Whether a descriptor in an ``fdinfo-N.img`` is of one of the files ``ids``."""
    entries = _decode(data, images.FDINFO, name).entries
    return any(Message.parse(entry.message).uint(_FD_ID) in ids for entry in entries)


def replace_pages_files(
    data: bytes, *, old: frozenset[int], count: int, mount: int, name: str = "files.img"
) -> tuple[bytes, list[int]]:
    """Take the files ``old`` out and add ``count`` that are ``pages``, on the mount ``mount``.

    Returns the new image and the ids of the files added.
    """
    image = _decode(data, images.FILES, name)
    ids = [Message.parse(entry.message).uint(_ID) for entry in image.entries]
    kept = [entry for entry, one in zip(image.entries, ids, strict=True) if one not in old]
    added = [max(ids, default=0) + 1 + number for number in range(count)]
    image.entries = kept + [images.Entry(_file(one, mount).encode()) for one in added]
    return images.encode(image), added


def add_mount(data: bytes, used: Iterable[int], name: str) -> tuple[bytes, int]:
    """The mount of MOUNT_POINT in a mount namespace, made or made anew; its id.

    ``used`` are the mount ids of all namespaces. An old one is not kept as it is: when its snapshot
    was removed it is marked so, and CRIU would make the file that is mounted and remove it again,
    which is that of the next snapshot. Raises Broken when there is no root mount.
    """
    image = _decode(data, images.MOUNTPOINTS, name)
    mounts = [Message.parse(entry.message) for entry in image.entries]
    roots = [mount for mount in mounts if mount.blob(_MOUNTPOINT) == b"/"]
    if not roots:
        raise Broken(f"{name} has no root mount")
    devices = {mount.uint(_DEVICE) for mount in mounts}
    device = next(one for one in range(_UNUSED_DEVICE, 0, -1) if one not in devices)
    for entry, mount in zip(image.entries, mounts, strict=True):
        if mount.blob(_MOUNTPOINT) == _POINT:
            number = mount.uint(_MOUNT_ID)
            entry.message = _mount(number, device, roots[0]).encode()
            return images.encode(image), number
    number = max(used, default=0) + 1
    image.entries.insert(0, images.Entry(_mount(number, device, roots[0]).encode()))
    return images.encode(image), number


def remove_mount(data: bytes, name: str) -> bytes:
    """Take the mount of MOUNT_POINT out of a mount namespace."""
    image = _decode(data, images.MOUNTPOINTS, name)
    image.entries = [
        entry for entry in image.entries if Message.parse(entry.message).blob(_MOUNTPOINT) != _POINT
    ]
    return images.encode(image)


def mount_ids(data: bytes, name: str) -> list[int]:
    """The ids of the mounts of a namespace."""
    entries = _decode(data, images.MOUNTPOINTS, name).entries
    return [Message.parse(entry.message).uint(_MOUNT_ID) for entry in entries]


def _file(number: int, mount: int) -> Message:
    owner = Message()
    for field in _FOWN:
        owner.set_uint(field, 0)
    reg = Message()
    reg.set_uint(_REG_ID, number)
    reg.set_uint(_REG_FLAGS, _O_RDONLY_LARGEFILE)
    reg.set_uint(_REG_POS, 0)
    reg.set_message(_REG_FOWN, owner)
    reg.set_bytes(_REG_NAME, _POINT)
    reg.set_uint(_REG_MOUNT, mount << 1)  # a signed number, as protobuf's zigzag has it
    file = Message()
    file.set_uint(_TYPE, _TYPE_REG)
    file.set_uint(_ID, number)
    file.set_message(_REG, reg)
    return file


def _mount(number: int, device: int, root: Message) -> Message:
    mount = Message()
    mount.set_uint(_FSTYPE, _FSTYPE_UNKNOWN)
    mount.set_uint(_MOUNT_ID, number)
    mount.set_uint(_DEVICE, device)
    mount.set_uint(_PARENT_ID, root.uint(_MOUNT_ID))
    mount.set_uint(_MOUNT_FLAGS, _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_RELATIME)
    mount.set_bytes(_ROOT, b"/")
    mount.set_bytes(_MOUNTPOINT, _POINT)
    mount.set_bytes(_SOURCE, b"none")
    mount.set_bytes(_OPTIONS, b"")
    for field in (_SHARED, _MASTER, _SB_FLAGS):
        mount.set_uint(field, 0)
    mount.set_bytes(_EXT_KEY, _POINT)
    return mount


def _decode(data: bytes, magic: int, name: str) -> images.Image:
    image = images.decode(data, name)
    if image.magic != magic:
        raise Broken(
            f"{name} should be an image of type {images.NAMES[magic]}, "
            f"found {images.NAMES[image.magic]}"
        )
    return image
