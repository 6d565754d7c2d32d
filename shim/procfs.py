"""Reads from /proc the :mod:`~shim.picture` of a container that preflight judges.

The thin edge: everything may change while it is read, so what is gone is left out. Sockets are
asked themselves, through a duplicate of the descriptor (pidfd_getfd), since /proc/net does not
list those that are neither bound nor connected.
"""

from __future__ import annotations

import os
import re
import resource
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from shim import sockets
from shim.container import ContainerRef
from shim.picture import Descriptor, Socket, Task

PROC = Path("/proc")

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time")

_WATCH = re.compile(
    r"^(?:inotify wd|fanotify ino):.*?ino:([0-9a-f]+) sdev:([0-9a-f]+)", re.MULTILINE
)
_FANOTIFY = re.compile(r"^fanotify ino:([0-9a-f]+) sdev:([0-9a-f]+)", re.MULTILINE)
_NOTABLE = re.compile(r"/SYSV|\[uprobes\]|hugepage|hugetlb")
_KIND = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, kw_only=True)
class Status:
    """The fields of /proc/PID/status that matter here."""

    name: str
    state: str
    parent: int
    tracer: int
    threads: int
    inner: int
    """The process id in the innermost namespace."""
    resident: int
    """Bytes."""
    dumpable: int
    """Bytes: anonymous and shared memory that is resident."""


def parse_status(text: str) -> Status:
    """Parse /proc/PID/status (proc_pid_status(5)); absent fields count as zero."""
    fields = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields[key] = value.strip()

    def number(key: str, index: int = 0) -> int:
        words = fields.get(key, "").split()
        try:
            return int(words[index])
        except (IndexError, ValueError):
            return 0

    return Status(
        name=fields.get("Name", ""),
        state=fields.get("State", "?")[:1],
        parent=number("PPid"),
        tracer=number("TracerPid"),
        threads=number("Threads"),
        inner=number("NSpid", -1) or number("Pid"),
        resident=number("VmRSS") * 1024,
        dumpable=(number("RssAnon") + number("RssShmem")) * 1024,
    )


def parse_watches(text: str) -> tuple[tuple[int, int], ...]:
    """(device, inode) of the files that an inotify or fanotify fdinfo lists.

    The device is the kernel's own number (20 bits of minor), not st_dev.
    """
    found = [
        (int(device, 16), int(inode, 16))
        for pattern in (_WATCH, _FANOTIFY)
        for inode, device in pattern.findall(text)
    ]
    return tuple(dict.fromkeys(found))


def kernel_device(device: int) -> int:
    """st_dev as fdinfo and mountinfo's kernel number show it: major << 20 | minor."""
    return os.major(device) << 20 | os.minor(device)


def parse_maps(text: str) -> tuple[str, ...]:
    """Names of the mappings in /proc/PID/maps that need a closer look, each once."""
    names = []
    for line in text.splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and _NOTABLE.search(parts[5]):
            names.append(parts[5])
    return tuple(dict.fromkeys(names))


def shared_code(text: str) -> str:
    """The name of the first executable mapping in /proc/PID/maps, if it is shared and not writable.

    CRIU writes its own code over the beginning of the first one of at least a page
    (criu/parasite-syscall.c, get_exec_start), and the kernel lets nobody write where there is no
    private copy to be made and no permission (ptrace(2)).
    """
    for line in text.splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) >= 5 and parts[1][2:3] == "x":
            shared = parts[1][3:4] == "s" and parts[1][1] != "w"
            return (parts[5] if len(parts) == 6 else "anonymous") if shared else ""
    return ""


def processes(cgroup: Path) -> set[int]:
    """Every process in a control group and the groups below it."""
    found: set[int] = set()
    for folder, _, _ in os.walk(cgroup):
        try:
            found.update(int(line) for line in Path(folder, "cgroup.procs").read_text().split())
        except (OSError, ValueError):
            continue
    found.discard(0)
    return found


def tasks(container: ContainerRef, proc: Path = PROC) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """The processes of the container's tree, parents first, and those that are not of it."""
    pids = {container.pid} | (processes(container.freezer) if container.freezer else set())
    statuses = {pid: found for pid in pids if (found := _status(pid, proc)) is not None}
    tree = _tree(container.pid, {pid: status.parent for pid, status in statuses.items()})
    peers = sockets.unix_peers(container.pid)
    with sockets.Duplicates() as duplicates:
        made = {
            pid: _task(pid, status, proc, lambda pid, fd: duplicates.describe(pid, fd, peers))
            for pid, status in statuses.items()
        }
    strangers = tuple(made[pid] for pid in sorted(statuses) if pid not in set(tree))
    return tuple(made[pid] for pid in tree if pid in made), strangers


def tree_pids(container: ContainerRef, proc: Path = PROC) -> list[int]:
    """Process ids of the container's tree, parents first."""
    pids = {container.pid} | (processes(container.freezer) if container.freezer else set())
    statuses = {pid: found for pid in pids if (found := _status(pid, proc)) is not None}
    return _tree(container.pid, {pid: status.parent for pid, status in statuses.items()})


def has_stopped(container: ContainerRef, proc: Path = PROC) -> bool:
    """Whether a signal (SIGSTOP, job control) has stopped a process of the container."""
    statuses = (_status(pid, proc) for pid in tree_pids(container, proc))
    return any(status is not None and status.state == "T" for status in statuses)


def _tree(root: int, parents: dict[int, int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in sorted(parents.items()):
        children.setdefault(parent, []).append(pid)
    found, pending = [], [root]
    while pending:
        pid = pending.pop(0)
        found.append(pid)
        pending.extend(child for child in children.get(pid, ()) if child != root)
    return found


def _status(pid: int, proc: Path) -> Status | None:
    try:
        return parse_status((proc / str(pid) / "status").read_text(errors="replace"))
    except OSError:
        return None


def _task(
    pid: int, status: Status, proc: Path, describe: Callable[[int, int], Socket | None]
) -> Task:
    folder = proc / str(pid)
    maps = _text(folder / "maps")
    return Task(
        pid=pid,
        inner=status.inner,
        parent=status.parent,
        name=status.name,
        state=status.state,
        tracer=status.tracer,
        threads=status.threads,
        resident=status.resident,
        dumpable=status.dumpable,
        namespaces=tuple(_namespaces(folder)),
        mappings=parse_maps(maps),
        shared_code=shared_code(maps),
        descriptors=tuple(_descriptors(pid, folder, describe)),
        hides_limits=hides_limits(pid),
    )


def hides_limits(pid: int) -> bool:
    """Whether prlimit(2) refuses to show us the limits of a process.

    It does unless all its user and group ids are ours or we have CAP_SYS_RESOURCE.
    """
    try:
        resource.prlimit(pid, resource.RLIMIT_CPU)
    except PermissionError:
        return True
    except OSError:
        return False  # it has ended
    return False


def _namespaces(folder: Path) -> Iterable[tuple[str, int]]:
    for kind in NAMESPACES:
        try:
            yield kind, os.stat(folder / "ns" / kind).st_ino
        except OSError:
            continue


def _descriptors(
    pid: int, folder: Path, describe: Callable[[int, int], Socket | None]
) -> Iterable[Descriptor]:
    try:
        numbers = sorted(int(name) for name in os.listdir(folder / "fd"))
    except OSError:
        return
    for number in numbers:
        link = folder / "fd" / str(number)
        try:
            target = os.readlink(link)
            status = os.stat(link)
        except OSError:
            continue
        watches: tuple[tuple[int, int], ...] = ()
        if "notify" in target and target.startswith("anon_inode:"):
            watches = parse_watches(_text(folder / "fdinfo" / str(number)))
        kind = _KIND.get(stat.S_IFMT(status.st_mode), "other")
        yield Descriptor(
            number=number,
            target=target,
            kind=kind,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
            inode=status.st_ino,
            size=status.st_size if kind == "file" else 0,
            links=status.st_nlink,
            watches=watches,
            socket=describe(pid, number) if kind == "socket" else None,
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
