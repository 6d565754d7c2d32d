"""The order that the node daemon leaves for one container to be restored, and the answer.

A plan is a directory ``<run>/plans/<id>/``, 0700 and root's. The daemon writes ``plan.json``
once, at CreateContainer; the shim claims it once, at ``create``, and leaves ``result.json``:

    plan.json     the order (:class:`Plan`)
    claimed       made by the shim, exclusively, before it touches anything
    images/       CRIU's images prepared for this very restore
    criu.conf     CRIU options of this restore
    result.json   the answer (:class:`Result`)

The shim trusts this directory and nothing else: an annotation only names it.
"""

from __future__ import annotations

import errno
import json
import os
import stat

from shim.errors import Refused
from shim.memory import MOUNT_POINT
from shim.record import field, record

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any, Literal

    OnFailure = Literal["cold", "fail"]
    Outcome = Literal["restored", "cold", "failed"]
else:
    OnFailure = Outcome = str

PLAN_ANNOTATION = "podthaw.dev/plan"
"""Container annotation (OCI and CRI) whose value is the id of the plan."""

DEFAULT_RUN = "/run/podthaw"
"""Run-time state of the node: plans, results, locks, the proxy's socket."""

FORMAT = 1

_MAX_PLAN = 1 << 20  # bytes; paths and names take one or two thousand

_ID_LENGTH, _ID_DIGITS = 32, frozenset("0123456789abcdef")


@record(frozen=True, kw_only=True)
class Plan:
    """What the shim shall do at ``create`` of one container."""

    id: str
    """32 hexadecimal digits; the name of the plan's directory."""
    created: float
    """Unix time in seconds at which the daemon wrote it."""
    namespace: str
    pod: str
    pod_uid: str
    sandbox_id: str
    """Must equal the OCI annotation ``io.kubernetes.cri.sandbox-id`` of the bundle."""
    container: str
    """Must equal the OCI annotation ``io.kubernetes.cri.container-name``."""
    attempt: int
    """The restart count that kubelet asked for."""
    name: str
    """The snapshot as the user named it, for messages."""
    snapshot: str
    """``sha256:<hex>`` of the snapshot's manifest."""
    snapshot_dir: str
    """Absolute path of the snapshot in the store."""
    images: str
    """Absolute path of CRIU's images for this restore (inside the plan's directory)."""
    rootfs_diff: str | None = None
    """Absolute path of the tar with the writable layer, or None when it is empty."""
    shm: str | None = None
    """Absolute path of the tar with /dev/shm's content, or None."""
    tmpfs: str | None = None
    """Absolute path of the contents of memory file systems that the shim makes (:mod:`shim.tmpfs`),
    or None."""
    pages_mount: dict[str, str] | None = None
    """``{"source": …, "destination": …}`` of the read-only mount of the memory that is mapped
    (:mod:`shim.pagesmount`), or None."""
    cuda: str = ""
    """How the NVIDIA driver is asked (:mod:`shim.cuda`); empty when the snapshot has no GPU state.
    """
    gpu_map: dict[str, str] = field(default_factory=dict)
    """UUID of each GPU at capture, in order → UUID of this pod's, or nothing where only the
    finished OCI spec tells it."""
    gpus: dict[str, str] = field(default_factory=dict)
    """N of each /dev/nvidiaN of this node → the GPU's UUID."""
    own_ipc: bool = False
    """Whether the container gets an IPC namespace of its own (:mod:`shim.ipc`)."""
    tcp: Literal["close", "established"] = "close"
    on_failure: OnFailure = "cold"
    restore_timeout: float = 60.0
    """Seconds that the restore may take before it is undone."""
    after_restore: str = ""
    """The hook that wakes the workload (:mod:`shim.hooks`), as the user wrote it, or nothing."""
    address: str = "127.0.0.1"
    """Where such a hook finds the pod: its first IP address, or the node's own loopback."""
    runtime: str = "runc"
    """The OCI runtime below, a path or a name on PATH."""
    criu: str = "criu"
    """CRIU, a path or a name on PATH; runc finds it by PATH, so the shim puts its folder first."""


@record(frozen=True, kw_only=True)
class Result:
    """What the shim did with a plan."""

    outcome: Outcome
    container_id: str
    reason: str = ""
    """Why it was not restored: one sentence; empty when it was."""
    kind: str = ""
    """``unfit``, ``broken`` or ``refused`` (:mod:`shim.errors`); empty when restored."""
    log_tail: list[str] = field(default_factory=list)
    """The last lines of CRIU's log that tell of the failure."""
    phases: dict[str, float] = field(default_factory=dict)
    """Name of a phase → seconds, in order: check, rootfs, shm, criu, cuda, hook, undo, cold."""
    finished: float = 0.0
    """Unix time in seconds."""
    began: float = 0.0
    """When ``create`` began, on CLOCK_MONOTONIC; 0 where nobody noted it."""
    stages: dict[str, list[float]] = field(default_factory=dict)
    """Part of the restore → seconds after ``began`` at which it began, and its seconds. Besides
    the phases: load (the interpreter, imports), claim, and parts of criu: settings, runc, guard."""


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "str | None": (str, type(None)),
    "dict[str, str]": (dict,),
    "dict[str, str] | None": (dict, type(None)),
    "Literal['close', 'established']": (str,),
    "OnFailure": (str,),
}
"""What JSON may hold for a field, by its annotation."""

_ALLOWED: dict[str, set[object]] = {"tcp": {"close", "established"}, "on_failure": {"cold", "fail"}}


def plans_dir(run: str | Path = DEFAULT_RUN) -> str:
    """The folder that holds all plans of the node."""
    return f"{run}/plans"


def plan_dir(plan_id: str, run: str | Path = DEFAULT_RUN) -> str:
    """The directory of a plan; Refused when the id is not one of ours."""
    if len(plan_id) != _ID_LENGTH or not _ID_DIGITS.issuperset(plan_id):
        raise Refused(f"the plan id {plan_id[:80]!r} is not 32 hexadecimal digits")
    return f"{run}/plans/{plan_id}"


def write(plan: Plan, run: str | Path = DEFAULT_RUN) -> str:
    """Write a new plan's ``plan.json`` into its directory (made if absent); returns the folder."""
    folder = plan_dir(plan.id, run)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _write_json(f"{folder}/plan.json", {"format": FORMAT, **vars(plan)})
    return folder


def read(plan_id: str, run: str | Path = DEFAULT_RUN, *, owner: int = 0) -> Plan:
    """Read a plan, refusing whatever the daemon would not have written.

    The folder and the file must belong to ``owner`` (root), grant nothing to others, and be no
    links; the file must be a small one; the id inside must be the folder's name. Raises Refused.
    """
    try:
        data = _read_private(plan_dir(plan_id, run), owner)
    except FileNotFoundError:
        raise Refused(f"there is no plan {plan_id} on this node") from None
    except OSError as error:
        reason = "a symbolic link is in its place" if error.errno == errno.ELOOP else error.strerror
        raise Refused(f"the plan {plan_id} cannot be read: {reason}") from error
    plan = _decode(data, plan_id)
    if plan.id != plan_id:
        raise Refused(f"the plan {plan_id} says that it is plan {plan.id[:80]!r}")
    return plan


def claim(plan_id: str, run: str | Path = DEFAULT_RUN) -> None:
    """Take a plan for this run of the shim; Refused when it was taken before."""
    try:
        fd = os.open(
            f"{plan_dir(plan_id, run)}/claimed", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600
        )
    except FileExistsError:
        raise Refused(f"the plan {plan_id} was used before, and a plan serves once") from None
    except OSError as error:
        raise Refused(f"the plan {plan_id} cannot be claimed: {error.strerror}") from error
    os.close(fd)


def write_result(plan_id: str, result: Result, run: str | Path = DEFAULT_RUN) -> None:
    """Leave the answer beside the plan."""
    _write_json(f"{plan_dir(plan_id, run)}/result.json", vars(result))


def read_result(plan_id: str, run: str | Path = DEFAULT_RUN) -> Result | None:
    """The shim's answer, or None while there is none (or none that can be read)."""
    try:
        with open(f"{plan_dir(plan_id, run)}/result.json", "rb") as file:
            return Result(**json.load(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _decode(data: bytes, plan_id: str) -> Plan:
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw.pop("format") != FORMAT:
            raise Refused(f"the plan {plan_id} is not of format {FORMAT}")
        plan = Plan(**raw)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refused(f"the plan {plan_id} is not a plan: {error}") from error
    for name, kind in Plan.__annotations__.items():
        value = getattr(plan, name)
        allowed = _ALLOWED.get(name)
        if type(value) not in _TYPES[kind] or (allowed and value not in allowed):
            raise Refused(f"the plan {plan_id} has {name} {value!r:.80}, wanted {kind}")
    pages = None
    if plan.pages_mount is not None:
        pages = plan.pages_mount.get("source")
        expected = {"source": pages, "destination": MOUNT_POINT}
        if not isinstance(pages, str) or plan.pages_mount != expected:
            raise Refused(f"the plan {plan_id} mounts {plan.pages_mount!r:.200} as memory")
    for path in (plan.snapshot_dir, plan.images, plan.rootfs_diff, plan.shm, plan.tmpfs, pages):
        if path is not None and not os.path.isabs(path):
            raise Refused(f"the plan {plan_id} names the path {path!r}, which is not absolute")
    return plan


def _read_private(folder: str, owner: int) -> bytes:
    """``plan.json`` of a folder; every check is of what is open, so that nothing changes after."""
    directory = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_private(folder, os.fstat(directory), owner, stat.S_ISDIR, "directory")
        path = f"{folder}/plan.json"
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open("plan.json", flags, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        status = os.fstat(fd)
        _check_private(path, status, owner, stat.S_ISREG, "regular file")
        if status.st_nlink != 1 or status.st_size > _MAX_PLAN:
            raise Refused(
                f"{path} has {status.st_nlink} names and {status.st_size} bytes; a plan has one "
                f"name and at most {_MAX_PLAN} bytes"
            )
        return os.read(fd, _MAX_PLAN)
    finally:
        os.close(fd)


def _check_private(
    path: str, status: os.stat_result, owner: int, is_right: Callable[[int], bool], what: str
) -> None:
    if not is_right(status.st_mode):
        raise Refused(f"{path} is not a {what}")
    if status.st_uid != owner or status.st_mode & 0o077:
        raise Refused(
            f"{path} belongs to user {status.st_uid} with mode {status.st_mode & 0o777:04o}; "
            f"a plan belongs to user {owner} alone"
        )


def _write_json(path: str, value: object) -> None:
    """Write a small private file so that a reader sees all of it or nothing."""
    folder, name = os.path.split(path)
    aside = f"{folder}/.{name}.{os.getpid()}"
    fd = os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(value, file)
    os.replace(aside, path)
