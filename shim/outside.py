"""What a dump has to know of a container: its mounts, namespaces, streams, and how it is frozen."""

from __future__ import annotations

import os
from pathlib import Path

from shim import external, mounts, pagesmount, procfs, shm
from shim import spec as oci
from shim.container import ContainerRef
from shim.errors import Unfit


def external_namespaces(container: ContainerRef) -> list[str]:
    """The container's joined network and PID namespaces as CRIU's ``--external`` wants them.

    The keys are runc's: it offers the new pod's namespaces under the same ones at restore.
    """
    found = []
    for kind, key, name in (("network", "extRootNetNS", "net"), ("pid", "extRootPidNS", "pid")):
        if oci.namespace_path(container.spec, kind):
            inode = os.stat(f"/proc/{container.pid}/ns/{name}").st_ino
            found.append(f"{name}[{inode}]:{key}")
    return found


def standard_streams(container: ContainerRef) -> list[str]:
    """What runc must give to descriptors 0, 1 and 2 again.

    As they were given to the container, unless nothing in it has them any more: then (the
    container was itself restored, or replaced its streams) as the first process has them now.
    """
    now = [_readlink(f"/proc/{container.pid}/fd/{number}") for number in range(3)]
    held = {
        _readlink(f"/proc/{pid}/fd/{name}")
        for pid in procfs.tree_pids(container)
        for name in _listdir(f"/proc/{pid}/fd")
    }
    given = list(container.descriptors[:3]) + now[len(container.descriptors) :]
    return [old if old in held else new for old, new in zip(given, now, strict=True)]


def freezer(container: ContainerRef) -> Path | None:
    """The freezer that CRIU shall use; None: it stops every process by itself.

    A process that a signal has stopped cannot be seized while it is frozen by cgroup v1: the
    kernel waits for it to change its kind of stop (ptrace_attach), and it cannot run to do so.
    """
    if container.cgroup_version == 1 and procfs.has_stopped(container):
        return None
    return container.freezer


def mount_points(container: ContainerRef) -> list[str]:
    """Where the runtime made an empty file or folder to mount something over it."""
    ours = pagesmount.of(mounts.read(container.pid))
    points = external.mount_points(container.spec, container.rootfs)
    return points if ours is None else [*points, ours.target]


def removed_pages(container: ContainerRef) -> list[str]:
    """For ``--external``: the memory file of its snapshot, when that was removed meanwhile."""
    return pagesmount.external_file(container.pid, mounts.read(container.pid))


def mounts_of(container: ContainerRef) -> external.Sorted:
    """The container's mounts, by what becomes of them in a dump."""
    root = Path(f"/proc/{container.pid}/root")
    return external.sort(
        container.spec,
        container.rootfs,
        mounts.read(container.pid),
        masked_files=external.masked_files(container.spec, root),
    )


def shm_folder(container: ContainerRef) -> Path | None:
    """The folder behind the container's /dev/shm, if it has one."""
    try:
        return Path(shm.source_of(container.spec))
    except Unfit:
        return None


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
