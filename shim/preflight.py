"""What would make a dump, or the restore from it, fail: told before anything is frozen.

Each check is a pure function over a :class:`~shim.picture.Picture`. A finding names the process
and the thing, says why CRIU cannot handle it, and what to do. What CRIU 4.2 supports was read in
its sources: criu/filesystems.c and mount.c, namespaces.c, proc_parse.c (mappings), and for open
descriptors :mod:`shim.openfiles`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from shim import host, openfiles
from shim.criu import command
from shim.finding import Finding
from shim.picture import Picture, Task

_NO_PASSCRED = (4, 2)
"""From here on CRIU asks only unix and netlink sockets for SO_PASSCRED (criu/sockets.c)."""

_SHARED = {
    "pid": (
        (
            "the pod shares one PID namespace, and the process ids of a restored container would "
            "clash with its neighbours'"
        ),
        "set shareProcessNamespace and hostPID to false",
    ),
    "user": (
        "the container runs in a user namespace, which runc cannot restore",
        "set hostUsers to true for this pod",
    ),
    "cgroup": (
        "the cgroup namespace is joined by path, which runc cannot restore",
        "let the runtime make the container's own cgroup namespace",
    ),
}
_HOST = {
    "network": ("hostNetwork", "a restored copy wants the same ports on the node"),
    "ipc": ("hostIPC", "shared memory and semaphores of the node are not saved"),
}


def check(picture: Picture) -> list[Finding]:
    """Every finding, failures first; an empty list means that a dump should succeed."""
    found = [finding for run in _CHECKS for finding in run(picture)]
    return sorted(found, key=lambda finding: finding.severity != "fail")


def _tools(picture: Picture) -> Iterator[Finding]:
    wanted = ".".join(map(str, command.MINIMUM))
    if picture.criu is None:
        yield Finding(
            check="criu",
            severity="fail",
            what="this node",
            why="CRIU is not installed or does not run",
            remedy=f"install CRIU {wanted} or newer, or set `criu` in the configuration",
        )
    elif host.version_tuple(picture.criu) < command.MINIMUM:
        yield Finding(
            check="criu",
            severity="fail",
            what="this node",
            why=f"CRIU is of version {picture.criu}, and {wanted} or newer is needed",
            remedy="upgrade the package criu",
        )
    elif not picture.passcred and host.version_tuple(picture.criu) < _NO_PASSCRED:
        holders = [task for task in picture.tasks if _has_internet_socket(task)]
        if holders:
            yield Finding(
                check="criu-sockets",
                severity="fail",
                what=str(holders[0]),
                why=f"it has internet sockets, which CRIU {picture.criu} cannot save on this "
                "kernel (it asks them for SO_PASSCRED, which Linux 6.16 and newer refuse)",
                remedy=f"upgrade the package criu to {'.'.join(map(str, _NO_PASSCRED))} or newer",
            )
    hiding = [task for task in picture.tasks if task.hides_limits]
    if hiding:
        yield Finding(
            check="privilege",
            severity="warn",  # the `criu` of the configuration may have what we lack
            what=str(hiding[0]),
            why="CRIU must read its resource limits, which are another user's or group's, and "
            "without CAP_SYS_RESOURCE the dump fails",
            remedy="give CAP_SYS_RESOURCE to root on this node and to the service podthaw",
        )
    if not picture.tar:
        yield Finding(
            check="tar",
            severity="fail",
            what="this node",
            why="CRIU packs tmpfs mounts with tar and gzip, and they are not on PATH",
            remedy="install the packages tar and gzip",
        )


def _has_internet_socket(task: Task) -> bool:
    return any(
        descriptor.socket is not None
        and descriptor.socket.family in (socket.AF_INET, socket.AF_INET6)
        for descriptor in task.descriptors
    )


def _space(picture: Picture) -> Iterator[Finding]:
    needed = sum(task.dumpable for task in picture.tasks) + picture.files + picture.device_memory
    if picture.free is not None and picture.free < needed:
        yield Finding(
            check="space",
            severity="fail",
            what="the snapshot store",
            why=f"the snapshot takes about {_bytes(needed)} and {_bytes(picture.free)} are free",
            remedy="make room with `podthaw gc` or `podthaw remove`",
        )


def _container(picture: Picture) -> Iterator[Finding]:
    if picture.frozen:
        yield Finding(
            check="paused",
            severity="fail",
            what="the container",
            why="it is paused",
            remedy="resume it first",
        )
    if picture.terminal:
        yield Finding(
            check="terminal",
            severity="fail",
            what="the container's first process",
            why="it has a terminal (tty: true), whose other end stays with the runtime",
            remedy="set tty to false",
        )
    root = picture.root_filesystem
    if root is not None and (root.type != "overlay" or not root.option("upperdir")):
        yield Finding(
            check="rootfs",
            severity="fail",
            what="the root filesystem",
            why=f"it is {root.type} and not an overlay with a writable layer",
            remedy="use containerd's overlayfs snapshotter",
        )


def _namespaces(picture: Picture) -> Iterator[Finding]:
    spec = dict(picture.namespaces)
    for kind, (why, remedy) in _SHARED.items():
        path = spec.get(kind)
        # Every container has its own PID namespace; user and cgroup namespaces are optional.
        bad = path != "" if kind == "pid" else bool(path) or (kind == "user" and path is not None)
        if bad:
            yield Finding(
                check=f"{kind}-namespace",
                severity="fail",
                what="the container",
                why=why,
                remedy=remedy,
            )
    for kind, (key, why) in _HOST.items():
        if spec.get(kind) is None:
            yield Finding(
                check=f"host-{kind}",
                severity="warn",
                what="the pod",
                why=f"it uses the node's own {kind} namespace: {why}",
                remedy=f"set {key} to false",
            )
    init = next((task for task in picture.tasks if task.pid == picture.init), None)
    wanted = dict(init.namespaces) if init else {}
    for task in picture.tasks:
        kinds = [kind for kind, inode in task.namespaces if wanted.get(kind, inode) != inode]
        if kinds:
            yield Finding(
                check="nested-namespaces",
                severity="fail",
                what=str(task),
                why=f"it runs in {', '.join(kinds)} namespaces of its own",
                remedy="do without the sandbox, browser or container that the program starts, "
                "or switch its namespaces off",
            )


def _processes(picture: Picture) -> Iterator[Finding]:
    node_ipc = dict(picture.namespaces).get("ipc") is None
    for task in picture.tasks:
        if task.tracer:
            yield Finding(
                check="traced",
                severity="fail",
                what=str(task),
                why=f"process {task.tracer} traces it (debugger or strace), and only one can",
                remedy="detach the tracer",
            )
        if task.shared_code:
            yield Finding(
                check="shared-code",
                severity="fail",
                what=f"{task}, mapping {task.shared_code}",
                why="its first executable memory is shared, and CRIU cannot start there",
                remedy="switch the just-in-time compiler's shared buffer off "
                "(PHP: opcache.jit_buffer_size=0)",
            )
        for name in task.mappings:
            if name.startswith("/SYSV") and node_ipc:
                yield Finding(
                    check="sysv-shm",
                    severity="fail",
                    what=f"{task}, mapping {name}",
                    why="System V shared memory of the node cannot be saved",
                    remedy="set hostIPC to false",
                )
            elif name == "[uprobes]":
                yield Finding(
                    check="uprobes",
                    severity="fail",
                    what=str(task),
                    why="a tracing tool of the node has put probes into its code",
                    remedy="stop the tool (bpftrace, perf, an eBPF profiler) for the capture",
                )
            elif "hugepage" in name or "hugetlb" in name:
                yield Finding(
                    check="hugetlb",
                    severity="warn",
                    what=f"{task}, mapping {name}",
                    why="it uses reserved huge pages",
                    remedy="ask for the same hugepages-… resource where it is restored",
                )
    for task in picture.strangers:
        yield Finding(
            check="exec",
            severity="warn",
            what=str(task),
            why="it was started by exec and is not part of the container's process tree",
            remedy="end it if the snapshot should be like the running container",
        )


def _gpu(picture: Picture) -> Iterator[Finding]:
    holders = [
        task
        for task in picture.tasks
        if any(one.target.startswith("/dev/nvidia") for one in task.descriptors)
    ]
    if picture.gpu_problem and holders:
        yield Finding(
            check="gpu-driver",
            severity="fail",
            what=str(holders[0]),
            why=f"it uses a GPU, and its memory there cannot be saved: {picture.gpu_problem}",
            remedy="install NVIDIA driver 570 or newer on this node",
        )
    if picture.memory_left is not None and picture.memory_left < picture.device_memory:
        yield Finding(
            check="gpu-memory",
            severity="fail",
            what="the container",
            why=f"it has {_bytes(picture.device_memory)} of GPU memory, which the driver moves "
            f"into its ordinary memory, and its memory limit leaves {_bytes(picture.memory_left)}",
            remedy="give it a memory limit that has room for both",
        )
    for task in picture.tasks:
        if task.cuda and task.cuda != "running":
            yield Finding(
                check="gpu-state",
                severity="fail",
                what=str(task),
                why=f"it is {task.cuda} for the NVIDIA driver, and only a running process can be "
                "checkpointed",
                remedy="let the program that checkpoints it end",
            )
        if task in holders and task.state in ("T", "t"):
            yield Finding(
                check="gpu-stopped",
                severity="fail",
                what=str(task),
                why="it uses a GPU and is stopped by a signal, so the driver cannot reach it",
                remedy="continue it (SIGCONT)",
            )


def _ipc(picture: Picture) -> Iterator[Finding]:
    if picture.mqueues:
        yield Finding(
            check="mqueue",
            severity="fail",
            what=", ".join(f"/dev/mqueue/{name}" for name in picture.mqueues),
            why="POSIX message queues cannot be saved",
            remedy="remove the queues before the capture",
        )


def _mounts(picture: Picture) -> Iterator[Finding]:
    for mount, outer in picture.mounts.submounts:
        yield Finding(
            check="submount",
            severity="fail",
            what=f"the mount {mount.target}",
            why=f"it came along inside the volume {outer.target} and is not declared in the pod, "
            "so a restore could not give it back",
            remedy="mount it as a volume of its own, or without recursion",
        )
    for mount in picture.mounts.unsupported:
        kind = "FUSE" if mount.type.startswith("fuse") else mount.type
        yield Finding(
            check="mount",
            severity="fail",
            what=f"the mount {mount.target}",
            why=f"it is a {kind} file system mounted inside the container",
            remedy="mount it as a volume of the pod, or unmount it before the capture",
        )


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


_CHECKS: tuple[Callable[[Picture], Iterator[Finding]], ...] = (
    _tools,
    _container,
    _namespaces,
    _processes,
    openfiles.findings,
    _gpu,
    _mounts,
    _ipc,
    _space,
)
