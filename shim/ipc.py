"""System V shared memory, semaphores and message queues: which restore brings them back.

They live in an IPC namespace, which the containers of a pod share. CRIU saves all objects of the
namespace, and makes them again only in a namespace that it makes itself: in one that it joins it
makes none, and a process that has shared memory attached cannot be restored. So a snapshot that
has such objects is restored with an IPC namespace of the container's own. Nothing else changes:
POSIX shared memory is in /dev/shm, a mount.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_IMAGE = re.compile(r"ipcns-(shm|sem|msg)-\d+\.img")
"""CRIU writes each of them only when there are objects (criu/ipc_ns.c)."""


def has_objects(images: Iterable[str]) -> bool:
    """Whether a dump with files of these names holds System V objects."""
    return any(_IMAGE.fullmatch(name) for name in images)


def with_own_namespace(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The OCI runtime spec with an IPC namespace of the container's own instead of a joined one."""
    linux = dict(spec.get("linux") or {})
    linux["namespaces"] = [
        {"type": "ipc"} if namespace.get("type") == "ipc" else namespace
        for namespace in linux.get("namespaces") or []
    ]
    return {**spec, "linux": linux}
