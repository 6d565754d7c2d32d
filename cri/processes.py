"""The processes of a container on this node, found without asking containerd."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shim.container import CRI_NAMESPACE, TASKS

PROC = Path("/proc")


def of_container(container_id: str, containerd_state: Path, *, proc: Path = PROC) -> list[int]:
    """The process tree of a running container, its first process first; empty when there is none.

    ``containerd_state`` is containerd's ``state`` folder. Processes that were started into the
    container (``kubectl exec``) are not of the tree, nor are those that left it, which only a pod
    that shares the node's PID namespace allows.
    """
    bundle = containerd_state / TASKS / CRI_NAMESPACE / container_id
    try:
        first = int((bundle / "init.pid").read_text())
        groups = (proc / str(first) / "cgroup").read_text()
    except (OSError, ValueError):
        return []
    # The file outlives the process, whose number another may have got.
    return tree(first, proc=proc) if container_id in groups else []


def tree(first: int, *, proc: Path = PROC) -> list[int]:
    """A process and all its descendants, parents first."""
    found, pending = [], [first]
    while pending:
        pid = pending.pop(0)
        found.append(pid)
        pending += _children(proc / str(pid) / "task")
    return found


def _children(tasks: Path) -> list[int]:
    """Of all threads of a process. The file is there with CRIU's kernel option."""
    children: list[int] = []
    try:
        for thread in tasks.iterdir():
            children += map(int, (thread / "children").read_text().split())
    except OSError:  # it has ended
        pass
    return children


def faults(pids: Iterable[int], *, proc: Path = PROC) -> dict[str, int]:
    """Page faults of processes so far: ``minor`` without and ``major`` with reading from a disk.

    Source: proc_pid_stat(5). Empty when none of them can be read.
    """
    counts = {"minor": 0, "major": 0}
    read = False
    for pid in pids:
        try:
            fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            counts["minor"] += int(fields[7])
            counts["major"] += int(fields[9])
            read = True
        except (OSError, ValueError, IndexError):
            continue  # it has ended
    return counts if read else {}
