"""The processes of a container on this node, found without asking containerd."""

from __future__ import annotations

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
