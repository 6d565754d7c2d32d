"""Which mounts of a container come from outside, so that CRIU must not save or rebuild them.

``runc restore`` names to CRIU every bind mount of the OCI spec, the cgroup v1 mounts, the device
nodes and the masked files; the dump must name the same ones by the same keys. Everything else in
the container's mount namespace CRIU rebuilds by itself, as long as it knows the file system.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shim import pagesmount
from shim import spec as oci
from shim.mounts import Mounted

REBUILT = frozenset(
    {
        "proc",
        "sysfs",
        "devtmpfs",
        "binfmt_misc",
        "tmpfs",
        "devpts",
        "pstore",
        "mqueue",
        "securityfs",
        "fusectl",
        "debugfs",
        "tracefs",
        "cgroup",
        "cgroup2",
    }
)
"""File systems that CRIU mounts anew by itself (CRIU: criu/filesystems.c), without those that
need something of the host again: overlay, aufs, autofs, fuse, block devices."""

_MAX_LINKS = 40  # path_resolution(7)


@dataclass(frozen=True, kw_only=True)
class External:
    """A mount that CRIU is told to leave to the runtime."""

    target: str
    """Mount point inside the container."""
    name: str
    """The key under which the runtime gives the mount back at restore."""


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """The mounts of a container, by what becomes of them."""

    external: tuple[External, ...]
    submounts: tuple[tuple[Mounted, Mounted], ...]
    """(mount, the bind mount it lies in): came along with a recursive bind, undeclared."""
    unsupported: tuple[Mounted, ...]
    """Mounts made inside the container that CRIU cannot make again."""


def secure_join(root: Path, path: str) -> str:
    """Where ``path`` leads inside ``root``, as an absolute path inside it.

    Symbolic links are followed as the container would follow them: none leaves ``root``. What
    does not exist is taken as it stands.
    """
    pending = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part == ".":
            continue
        if part == "..":
            done = done[:-1]
            continue
        try:
            target = os.readlink(root.joinpath(*done, part))
        except OSError:
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            return os.path.normpath("/" + path)
        if target.startswith("/"):
            done = []
        pending[:0] = [piece for piece in target.split("/") if piece]
    return "/" + "/".join(done)


def mount_points(spec: oci.Spec, rootfs: Path) -> list[str]:
    """Where the spec's mounts land inside the container, symbolic links followed."""
    return [
        secure_join(rootfs, str(mount.get("destination", ""))) for mount in oci.spec_mounts(spec)
    ]


def sort(
    spec: oci.Spec, rootfs: Path, listed: Sequence[Mounted], *, masked_files: Iterable[str]
) -> Sorted:
    """Sort a container's mounts (its ``mountinfo``) by what becomes of them.

    ``masked_files`` are those masked paths that are no directories (:func:`masked_files`).
    """
    places = _Places.of(spec, rootfs, masked_files)
    external: dict[str, External] = {}
    submounts, unsupported = [], []
    outside: dict[int, Mounted] = {}  # id of a bind mount of the spec, or of one inside it
    for mount in listed:
        name = places.name(mount)
        if mount.target == "/":
            continue
        if name:
            external[mount.target] = External(target=mount.target, name=name)
            if mount.target in places.binds:
                outside[mount.id] = mount
        elif mount.parent in outside:
            submounts.append((mount, outside[mount.parent]))
            outside[mount.id] = outside[mount.parent]
        elif mount.type not in REBUILT:
            unsupported.append(mount)
    return Sorted(
        external=tuple(external.values()),
        submounts=tuple(submounts),
        unsupported=tuple(unsupported),
    )


@dataclass(frozen=True)
class _Places:
    """Where the runtime mounts what."""

    binds: frozenset[str]
    cgroups: frozenset[str]
    """Of cgroup v1, where the container has no cgroup namespace: a bind mount a controller."""
    devices: frozenset[str]
    masked: frozenset[str]

    @classmethod
    def of(cls, spec: oci.Spec, rootfs: Path, masked: Iterable[str]) -> _Places:
        binds, cgroups = set(), set()
        own_cgroups = oci.namespace_path(spec, "cgroup") is not None
        for wanted in oci.spec_mounts(spec):
            target = secure_join(rootfs, str(wanted.get("destination", "")))
            if oci.is_bind(wanted):
                binds.add(target)
            elif wanted.get("type") == "cgroup" and not own_cgroups:
                cgroups.add(target)
        devices = {secure_join(rootfs, path) for path in oci.device_paths(spec)}
        return cls(frozenset(binds), frozenset(cgroups), frozenset(devices), frozenset(masked))

    def name(self, mount: Mounted) -> str | None:
        """The key of a mount that the runtime gives back, None for another one."""
        target = mount.target
        if target in self.binds or target in self.devices:
            return target
        if target in self.masked:
            return "/dev/null"
        if mount.type == "cgroup" and _is_below(target, self.cgroups):
            return target
        if pagesmount.is_ours(mount):
            return target  # the next restore mounts the memory of the next snapshot there
        if target.startswith("/dev/") and mount.type in ("devtmpfs", "tmpfs") and _is_node(mount):
            return target  # a device that the runtime bound because it may not make nodes
        return None


def masked_files(spec: oci.Spec, root: Path) -> list[str]:
    """The masked paths that exist below ``root`` (``/proc/PID/root``) and are no directories."""
    found = []
    for path in oci.masked_paths(spec):
        try:
            status = os.stat(root / path.lstrip("/"))
        except OSError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            found.append(path)
    return found


def _is_below(target: str, folders: Iterable[str]) -> bool:
    return any(target.startswith(folder + "/") for folder in folders)


def _is_node(mount: Mounted) -> bool:
    """Whether a mount shows a single file of a /dev file system rather than a tree."""
    return mount.root != "/" and mount.root.count("/") == 1
