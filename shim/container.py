"""A running container as containerd's shim and runc left it on this node.

Nothing is asked of a daemon: the bundle (``config.json``, ``init.pid``, ``options.json``) and
runc's ``state.json`` tell everything that a capture needs, for any container, opted in or not.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shim import spec as oci
from shim.errors import Refused, Unfit

DEFAULT_STATE = Path("/run/containerd")
"""containerd's ``state`` folder, unless its configuration says otherwise."""

DEFAULT_RUNTIME_ROOT = Path("/run/containerd/runc")
"""Where containerd's shim keeps runc's state, unless the runtime's ``Root`` option says otherwise
(containerd: cmd/containerd-shim-runc-v2/process)."""

TASKS = "io.containerd.runtime.v2.task"
"""Folder of bundles below containerd's state."""

CRI_NAMESPACE = "k8s.io"
"""containerd's namespace for what the CRI made."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class ContainerRef:
    """One running container."""

    id: str
    bundle: Path
    rootfs: Path
    """Where the root filesystem is mounted on the host."""
    pid: int
    """The first process, as seen from here."""
    started: int
    """Start time of the first process in clock ticks after boot: with ``pid`` it names one
    process for good."""
    spec: dict[str, Any]
    """The OCI runtime spec."""
    cgroups: dict[str, str]
    """Controller → absolute folder; on cgroup v2 the only key is ``""``."""
    descriptors: tuple[str, ...]
    """Descriptors 0, 1 and 2 as they were given to the container, e.g. ``pipe:[123]``."""

    @property
    def freezer(self) -> Path | None:
        """The folder of the freezer that holds exactly this container."""
        found = self.cgroups.get("freezer") or self.cgroups.get("")
        return Path(found) if found else None

    @property
    def cgroup_version(self) -> int:
        """1 or 2: the hierarchy that the freezer belongs to."""
        return 2 if "" in self.cgroups and "freezer" not in self.cgroups else 1


def bundle_of(pid: int, container_id: str) -> Path | None:
    """The bundle of a container by its first process, wherever containerd keeps its state.

    containerd's shim is the parent of every container of a pod and works in the folder of one of
    them; their bundles lie side by side. None when the process has another kind of parent.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        parent = text[text.rfind(")") + 2 :].split()[1]
        bundle = Path(os.readlink(f"/proc/{parent}/cwd")).parent / container_id
    except (OSError, IndexError):
        return None
    return bundle if (bundle / "config.json").is_file() else None


def find(
    container_id: str, *, bundle: Path | None = None, runtime_root: Path | None = None
) -> ContainerRef:
    """The running container with this id.

    ``bundle`` is by default where containerd has it by default, in the CRI's namespace. Raises
    Refused for an id that is none, Unfit when the container does not run or was not started by
    containerd's runc shim.
    """
    if not _ID.fullmatch(container_id):
        raise Refused(f"{container_id[:80]!r} is not a container id")
    bundle = bundle or DEFAULT_STATE / TASKS / CRI_NAMESPACE / container_id
    if not bundle.is_dir():
        raise Unfit(f"the container {short(container_id)} is not running on this node")
    spec = oci.read(bundle)
    root = runtime_root or _runtime_root(bundle)
    pid = _init_pid(bundle, container_id)
    runc = _runc_state(root / bundle.parent.name / container_id / "state.json", container_id)
    recorded = runc.get("init_process_pid")
    if recorded != pid:
        raise Unfit(
            f"the container {short(container_id)} is starting or stopping just now: its bundle "
            f"names process {pid}, runc names {recorded}"
        )
    started = start_time(pid)
    if started is None or started != runc.get("init_process_start", started):
        raise Unfit(f"the container {short(container_id)} is not running: process {pid} is gone")
    paths = runc.get("cgroup_paths") or {}
    return ContainerRef(
        id=container_id,
        bundle=bundle,
        rootfs=_rootfs(bundle, spec),
        pid=pid,
        started=started,
        spec=spec,
        cgroups={str(key): str(value) for key, value in paths.items() if value},
        descriptors=tuple(map(str, runc.get("external_descriptors") or ())),
    )


def short(container_id: str) -> str:
    """The first digits of an id, as people know it from crictl."""
    return container_id[:13]


def start_time(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Start time of a process in clock ticks after boot; None when it is gone or a zombie."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name in parentheses may itself hold blanks and parentheses.
    fields = text[text.rfind(")") + 2 :].split()
    return None if fields[0] in "ZXx" else int(fields[19])


def _runtime_root(bundle: Path) -> Path:
    try:
        options = json.loads((bundle / "options.json").read_bytes())
    except (OSError, ValueError):
        return DEFAULT_RUNTIME_ROOT
    value = options.get("root") or options.get("Root") if isinstance(options, dict) else None
    return Path(value) if value else DEFAULT_RUNTIME_ROOT


def _init_pid(bundle: Path, container_id: str) -> int:
    try:
        return int((bundle / "init.pid").read_text())
    except (OSError, ValueError):
        raise Unfit(f"the container {short(container_id)} has not been started") from None


def _runc_state(path: Path, container_id: str) -> dict[str, Any]:
    try:
        state = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Unfit(
            f"the container {short(container_id)} has no runc state at {path}; only containers "
            f"that runc runs can be captured"
        ) from None
    except (OSError, ValueError) as error:
        raise Unfit(f"runc's state {path} cannot be read: {error}") from error
    return state if isinstance(state, dict) else {}


def _rootfs(bundle: Path, spec: dict[str, Any]) -> Path:
    root = Path(str((spec.get("root") or {}).get("path") or "rootfs"))
    return (root if root.is_absolute() else bundle / root).resolve()
