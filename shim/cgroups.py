"""The control groups of one container: where they are, and how everything in them is ended.

A half-finished restore has processes that are nobody's children any more; the container's own
groups are the one place that knows them all. Names are never used to find a process.
"""

from __future__ import annotations

import errno
import os
import signal
import time

from shim.errors import Unfit

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from typing import Any

    from shim.mounts import Mounted

_V1 = "cgroup"
_V2 = "cgroup2"


def directories(
    spec: dict[str, Any], container: str, mounts: list[Mounted], *, systemd: bool
) -> list[str]:
    """The directories of a container's control groups, one a hierarchy, whether or not made yet.

    ``spec`` is the OCI spec, ``systemd`` whether the runtime was told ``--systemd-cgroup``.
    Raises Unfit when the group is not the container's own (its last part must name the
    container), because everything in it is killed when a restore fails.
    """
    path = spec.get("linux", {}).get("cgroupsPath") or ""
    if not systemd and _systemd_path(path).endswith(".scope"):
        raise Unfit(
            f"the cgroup path {path!r} is one for systemd, but Podthaw's runtime does not leave "
            "cgroups to it: run podthaw-dropin once more, or add SystemdCgroup = true to the "
            "runtime's options"
        )
    group = _systemd_path(path) if systemd else path
    leaf = os.path.basename(group)
    if not group.startswith("/") or container not in leaf or ".." in group.split("/"):
        raise Unfit(
            f"the cgroup path {path!r} of the container does not end in a group of its own "
            f"named after {container}"
        )
    return [mount.target + group for mount in mounts if mount.type in (_V1, _V2)]


def _systemd_path(path: str) -> str:
    """``slice:prefix:name`` as systemd lays it out below the root; empty when it is not that."""
    parts = path.split(":")
    if len(parts) != 3:
        return ""
    name, prefix, leaf = parts
    name = name or "system.slice"
    folders, so_far = [], ""
    if name != "-.slice":
        for part in name.removesuffix(".slice").split("-"):
            so_far = f"{so_far}-{part}" if so_far else part
            folders.append(f"{so_far}.slice")
    scope = f"{prefix}-{leaf}.scope" if not leaf.endswith(".slice") else leaf
    return "/" + "/".join([*folders, scope])


def processes(folders: list[str]) -> set[int]:
    """Every process in the groups and the groups below them (seen from this PID namespace)."""
    found: set[int] = set()
    for top in folders:
        for folder, _, _ in os.walk(top):
            try:
                with open(f"{folder}/cgroup.procs", encoding="ascii") as file:
                    found.update(int(line) for line in file)
            except OSError:
                continue
    found.discard(0)  # a process outside this PID namespace
    return found


def kill(folders: list[str], *, timeout: float = 10.0) -> None:
    """Kill every process of the groups but this one, and wait until they are gone.

    Raises OSError when some are still there after ``timeout`` seconds. Frozen groups are thawed:
    a signal reaches a process of a frozen v1 group only then.
    """
    end = time.monotonic() + timeout
    me = os.getpid()
    while True:
        if me not in processes(folders):
            for folder in folders:
                _write(f"{folder}/cgroup.kill", "1")
        left = processes(folders)
        left.discard(me)
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for folder in folders:
            _write(f"{folder}/freezer.state", "THAWED")
            _write(f"{folder}/cgroup.freeze", "0")
        if time.monotonic() > end:
            raise OSError(errno.EBUSY, f"processes {sorted(left)} of the container do not end")
        time.sleep(0.01)


def remove(folders: list[str], *, timeout: float = 5.0) -> None:
    """Remove the (empty) groups with those below them; OSError when one stays busy."""
    end = time.monotonic() + timeout
    for top in folders:
        while os.path.isdir(top):
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if time.monotonic() > end:
                        raise
                    if error.errno != errno.EBUSY:
                        raise
                    time.sleep(0.01)


def _write(path: str, text: str) -> None:
    """Write to a control file that may not exist in this version of cgroups."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, text.encode())
    except OSError:
        pass
    finally:
        os.close(fd)
