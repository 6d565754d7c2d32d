"""CRIU's command lines.

Every option stands in one place with its reason, so that what is run can be read here and
repeated by hand from the log.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shim.external import External

MINIMUM = (4, 0)
"""Older ones do not know restartable sequences and guard pages of today's kernels."""

LOG = "dump.log"

NetworkLock = Literal["nftables", "iptables", "skip"]


@dataclass(frozen=True, kw_only=True)
class Dump:
    """What one dump needs to know."""

    criu: str
    """CRIU, a path or a name on PATH."""
    pid: int
    """First process of the container."""
    root: Path
    """The container's root filesystem on the host."""
    images: Path
    work: Path
    """Folder for the log, the statistics and caches."""
    external: Sequence[External]
    others: Sequence[str]
    """Other external things as CRIU names them, e.g. ``net[4026532281]:extRootNetNS``."""
    freezer: Path | None
    leave_running: bool
    network_lock: NetworkLock
    script: Path
    """Run at each stage of the dump (CRIU's action script)."""
    freeze_timeout: int
    """Seconds within which every process must have been stopped."""
    ghost_limit: int
    """Largest deleted-but-open file that is saved, in bytes."""
    watched: Sequence[str] = ()
    """Folders inside the container in which CRIU looks for watched files (inotify)."""


def dump(order: Dump) -> list[str]:
    """The command line of a dump."""
    command = [
        order.criu,
        "dump",
        "--tree",
        str(order.pid),
        "--images-dir",
        str(order.images),
        "--work-dir",
        str(order.work),
        "--log-file",
        LOG,
        "-v4",  # what stands before an error names the file or process
        "--root",
        str(order.root),
        "--manage-cgroups=soft",
        "--tcp-established",  # the policy is chosen at restore, so keep what it may need
        "--skip-in-flight",  # a connection nobody accepted yet is the client's to repeat
        "--file-locks",
        "--ext-unix-sk",  # datagram sockets to a log daemon and the like
        "--link-remap",  # open files whose name is gone while the inode has another name
        "--ghost-limit",
        str(order.ghost_limit),
        "--timeout",
        str(order.freeze_timeout),
        "--network-lock",
        order.network_lock,
        "--action-script",
        str(order.script),
    ]
    if order.leave_running:
        command.append("--leave-running")
    if order.freezer is not None:
        command += ["--freeze-cgroup", str(order.freezer)]
    for name in order.others:
        command += ["--external", name]
    for mount in order.external:
        command += ["--external", f"mnt[{mount.target}]:{mount.name}"]
    if order.watched:
        command.append("--force-irmap")  # overlay's file handles cannot be opened again
        for path in order.watched:
            command += ["--irmap-scan-path", path]
    return command


def network_lock(criu: str = "criu") -> NetworkLock:
    """How this host can hold open TCP connections still during a dump.

    nftables where CRIU and the kernel have it (one table for all connections), else iptables
    (two rules a connection), else not at all: then a connection that carries data at that moment
    can be restored only as closed.
    """
    if _succeeds([criu, "check", "--feature", "network_lock_nftables"]):
        return "nftables"
    if _succeeds(["iptables", "-w", "1", "-n", "-L", "OUTPUT"]):
        return "iptables"
    return "skip"


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
