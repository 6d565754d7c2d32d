"""Nothing of a node stays behind, not even when the run that made it was killed.

Containers and volumes carry the process that owns them in a label; what has lost its owner is
removed when the next node starts. (testcontainers has a janitor of its own for this, but it is an
image of a public registry.)
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.errors import APIError

LABEL = "dev.podthaw.test.owner"


def remove_stale(client: docker.DockerClient) -> None:
    """Remove what test runs left that did not end by themselves."""
    for container in client.containers.list(all=True, filters={"label": LABEL}):
        if not _lives(container.labels[LABEL]):
            thaw(f"/{container.name}")
            with contextlib.suppress(APIError):
                container.remove(force=True, v=True)
                remove_cgroups(f"/{container.name}")
    for volume in client.volumes.list(filters={"label": LABEL}):
        if not _lives(volume.attrs["Labels"][LABEL]):
            with contextlib.suppress(APIError):
                volume.remove(force=True)
    for hierarchy in hierarchies():
        for path in hierarchy.glob("podthaw-*"):
            made_by = re.fullmatch(r"podthaw-(\d+)-\d+", path.name)
            if made_by and not _start_time(int(made_by[1])):
                remove_cgroups(path.name)


def owner() -> str:
    """This process, told apart from a later one of the same number by its start time."""
    return f"{os.getpid()}.{_start_time(os.getpid())}"


def _lives(label: str) -> bool:
    pid, _, started = label.partition(".")
    return _start_time(int(pid)) == started


def _start_time(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def hierarchies() -> Iterator[Path]:
    """The roots of the cgroup hierarchies: one (v2), or one per controller (v1)."""
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.controllers").exists():
        yield base
        return
    for path in base.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield path


def unified_hierarchy() -> Path | None:
    """The root of cgroup v2, which may stand beside v1's hierarchies; None where there is none."""
    return next((path for path in hierarchies() if (path / "cgroup.controllers").exists()), None)


def thaw(cgroup: str) -> None:
    """Let the processes of a cgroup and those below run on: frozen ones could not be killed."""
    for hierarchy in hierarchies():
        top = hierarchy / cgroup.lstrip("/")
        for name, running in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            for path in top.rglob(name):
                with contextlib.suppress(OSError):
                    path.write_text(running)


def remove_cgroups(cgroup: str) -> None:
    """Remove a cgroup and those below; the last processes may still be on their way out."""
    deadline = time.monotonic() + 5
    for hierarchy in hierarchies():
        top = hierarchy / cgroup.lstrip("/")
        while top.exists():
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
