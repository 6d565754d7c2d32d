"""What a host is, as far as a snapshot cares."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from shim.errors import Unfit
from shim.snapshot import HostNeeds

_TIMEOUT = 10.0  # seconds for `criu --version`
_VERSION = re.compile(r"^Version:\s*(\S+)", re.MULTILINE)
_FLAG_KEYS = ("flags", "Features", "isa")


def facts(
    criu: str = "criu", *, cpuinfo: Path = Path("/proc/cpuinfo"), cgroup: Path | None = None
) -> HostNeeds:
    """The facts of this host, read now; Unfit when CRIU is missing or does not answer."""
    name = os.uname()
    return HostNeeds(
        arch=name.machine,
        kernel=name.release,
        criu=criu_version(criu),
        cpu_features=cpu_features(cpuinfo.read_text(errors="replace")),
        page_size=os.sysconf("SC_PAGE_SIZE"),
        cgroup=cgroup_version(cgroup or Path("/sys/fs/cgroup")),
    )


def cpu_features(cpuinfo: str) -> list[str]:
    """CPU flags that every processor of a ``/proc/cpuinfo`` has, sorted."""
    common: set[str] | None = None
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() in _FLAG_KEYS:
            flags = set(value.split())
            common = flags if common is None else common & flags
    return sorted(common or ())


def cgroup_version(root: Path = Path("/sys/fs/cgroup")) -> int:
    """2 when the unified hierarchy is mounted at the root, else 1 (also for the mixed layout)."""
    return 2 if (root / "cgroup.controllers").exists() else 1


def criu_version(criu: str = "criu") -> str:
    """CRIU's version, e.g. ``4.2.1``; Unfit when it cannot be run."""
    try:
        done = subprocess.run(
            [criu, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise Unfit(f"CRIU is not installed on this node: there is no program {criu!r}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unfit(f"CRIU cannot be run on this node: {error}") from error
    match = _VERSION.search(done.stdout)
    if match is None:
        raise Unfit(f"`{criu} --version` did not tell a version but {done.stdout.strip()[:80]!r}")
    return match[1]


def version_tuple(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with: ``6.18.3-arch1`` → ``(6, 18, 3)``."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()
