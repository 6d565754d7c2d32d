"""Collects the :class:`~shim.picture.Picture` that preflight judges; changes nothing."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from shim import (
    external,
    host,
    leftovers,
    memorylimit,
    mounts,
    outside,
    pagesmount,
    preflight,
    procfs,
    rootfs,
    shm,
    sockets,
)
from shim import spec as oci
from shim.container import ContainerRef
from shim.cuda import DRIVER, processes
from shim.errors import Unfit
from shim.finding import Finding
from shim.picture import Picture, Task

NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup", "time")
"""Kinds of namespaces as the OCI runtime spec names them."""


def check(
    container: ContainerRef, *, criu: str = "criu", store: Path | None = None
) -> list[Finding]:
    """What stands in the way of a capture of this container, failures first."""
    return preflight.check(picture(container, criu=criu, store=store))


def picture(
    container: ContainerRef,
    *,
    criu: str = "criu",
    store: Path | None = None,
    cuda: str = DRIVER,
) -> Picture:
    """Everything about a container that a check looks at; ``store`` is where its snapshot goes.

    ``cuda`` is how the NVIDIA driver is asked, of a container that has a GPU.
    """
    tree, strangers = procfs.tasks(container)
    frozen = leftovers.is_frozen(container.freezer, container.cgroup_version)
    tree, gpu_problem = _with_cuda(container, tree, cuda, frozen=frozen)
    root_mount = mounts.at(str(container.rootfs))
    root = f"/proc/{container.pid}/root"
    nodes = oci.node_namespaces(container.spec)
    return Picture(
        init=container.pid,
        tasks=tree,
        strangers=strangers,
        namespaces=tuple(
            (kind, None if kind in nodes else oci.namespace_path(container.spec, kind))
            for kind in NAMESPACES
        ),
        terminal=oci.has_terminal(container.spec),
        frozen=frozen,
        gpu_problem=gpu_problem,
        memory_left=_memory_left(container),
        mounts=_mounts(container),
        mqueues=tuple(_names(Path(root, "dev/mqueue"))),
        root_filesystem=root_mount,
        criu=_criu_version(criu),
        passcred=sockets.answers_passcred(),
        tar=all(shutil.which(tool) for tool in ("tar", "gzip")),
        free=_free(store) if store is not None else None,
        files=_files(container) + _mapped(container),
    )


def _with_cuda(
    container: ContainerRef, tasks: tuple[Task, ...], how: str, *, frozen: bool
) -> tuple[tuple[Task, ...], str]:
    """The tasks with what the driver tells of each, and why it tells nothing.

    A process that does not run cannot answer the driver, and so is not asked about.
    """
    asked = [task.pid for task in tasks if task.state not in "TtZX" and not frozen]
    seen = processes.look(container.spec, asked, how)
    return tuple(
        replace(task, cuda=seen.states[task.pid].name.lower()) if task.pid in seen.states else task
        for task in tasks
    ), seen.problem


def _memory_left(container: ContainerRef) -> int | None:
    group = container.cgroups.get("memory") or container.cgroups.get("")
    return (
        memorylimit.left(Path(group), 1 if "memory" in container.cgroups else 2) if group else None
    )


def _mounts(container: ContainerRef) -> external.Sorted:
    try:
        return outside.mounts_of(container)
    except OSError:
        return external.Sorted(external=(), submounts=(), unsupported=())


def _criu_version(criu: str) -> str | None:
    try:
        return host.criu_version(criu)
    except Unfit:
        return None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _free(path: Path) -> int | None:
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _mapped(container: ContainerRef) -> int:
    """What CRIU leaves out of a dump, and the next snapshot has again: memory that is mapped."""
    try:
        return pagesmount.stored(container.pid, mounts.read(container.pid))
    except (OSError, Unfit):  # the capture itself tells of it
        return 0


def _files(container: ContainerRef) -> int:
    total = 0
    try:
        folders = [rootfs.overlay_at(container.rootfs).upper]
    except Unfit:
        folders = []
    with suppress(Unfit):
        folders.append(Path(shm.source_of(container.spec)))
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    total += os.lstat(os.path.join(place, name)).st_blocks * 512
                except OSError:
                    continue
    return total
