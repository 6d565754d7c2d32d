"""The steps of one restore, each on record before it changes anything (see :mod:`shim.restore`)."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from shim import (
    guard,
    ipc,
    oom,
    overlay,
    pagesmount,
    plan,
    snapshot,
    supervise,
    sysctls,
    undo,
)
from shim import spec as oci
from shim.errors import Broken, PodthawError, Unfit
from shim.journal import Journal
from shim.memory import MOUNT_POINT

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from shim.cuda.restoring import GpuRestore
    from shim.times import Times

CRIU_CONFIG = "org.criu.config"
"""Annotation of the bundle that names CRIU's configuration file; runc passes it on."""

_SIGNALLED = 128
"""Above it an exit status is a signal's number: somebody's act, no fault of the snapshot."""


class InterruptedRestoreError(Exception):
    """The caller is gone or has asked for an end."""


def check_parent(pid: int) -> None:
    """Raise InterruptedRestoreError when the process ``pid`` is not this one's parent any more."""
    if os.getppid() != pid:
        raise InterruptedRestoreError


class Signals:
    """Turns SIGTERM, SIGINT and SIGHUP into :class:`InterruptedRestoreError`, until told not to."""

    _NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        for number in self._NUMBERS:
            signal.signal(number, self._raise)

    def ignore(self) -> None:
        """From here on nothing interrupts."""
        for number in self._NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    @staticmethod
    def _raise(_number: int, _frame: FrameType | None) -> None:
        raise InterruptedRestoreError


def follow(
    record: Journal,
    order: plan.Plan,
    spec: dict[str, Any],
    run: str,
    times: Times,
) -> None:
    """Restore the container. Raises Unfit, Broken or Refused; the journal then says what to undo.

    ``times`` receives the seconds of each phase, also of one that failed.
    """
    deadline = time.monotonic() + order.restore_timeout

    def tick() -> None:
        if time.monotonic() > deadline:
            raise Unfit(
                f"the restore was not ready within {order.restore_timeout:g} seconds: "
                "the files took too long"
            )

    with times.phase("check"):
        _check(order, spec, record)
        gpu = _gpu(order, spec)
    with times.phase("rootfs"):
        _apply_rootfs(record, order, spec, tick)
    with times.phase("shm"):
        _extract_shm(record, order, spec, run, tick)
    with times.phase("criu"):
        _restore_processes(record, order, spec, run, deadline, times=times)
    if gpu is not None:
        with times.phase("cuda"):
            gpu.restore(record, _first_process(record.pid_file), deadline)
            if order.after_restore:
                gpu.unlock(record, deadline)
            gpu.close()
    else:
        _place_gpus(record, spec)
    if order.after_restore:
        from shim import wake  # noqa: PLC0415 - few containers have a hook

        first = _first_process(record.pid_file)
        with times.phase("hook"):
            wake.wake(record, order, first, f"{plan.plan_dir(order.id, run)}/runc.log", deadline)
    if record.shm is not None:
        from shim import shm  # noqa: PLC0415 - imported already

        shm.remember(run, order.sandbox_id, order.container, record.shm["made"])


def _place_gpus(record: Journal, spec: dict[str, Any]) -> None:
    """A container that has a GPU and did not use it when it was captured gets the new one."""
    if not any(path.startswith("/dev/nvidia") for path in oci.device_paths(spec)):
        return
    from shim.cuda import devices  # noqa: PLC0415

    devices.place_nodes(f"/proc/{_first_process(record.pid_file)}/root", spec)


def _gpu(order: plan.Plan, spec: dict[str, Any]) -> GpuRestore | None:
    """The GPU's part of the restore, where the snapshot has one."""
    if not order.cuda:
        return None
    from shim.cuda.restoring import GpuRestore  # noqa: PLC0415 - few containers have a GPU

    return GpuRestore(order, spec)


def describe(error: BaseException, record: Journal, run: str) -> tuple[str, str, list[str]]:
    """Kind, reason and log lines of whatever ended a restore."""
    if isinstance(error, PodthawError):
        return error.kind, str(error), error.detail.split("\n") if error.detail else []
    if isinstance(error, InterruptedRestoreError):
        return "unfit", "the start was cancelled while it was being restored", []
    import traceback  # noqa: PLC0415 - takes 5 ms

    trace = traceback.format_exception(error)
    try:
        with open(f"{plan.plan_dir(record.plan, run)}/error.txt", "w", encoding="utf-8") as file:
            file.write("".join(trace))
    except (OSError, PodthawError):
        sys.stderr.write("".join(trace))
    return "unfit", f"podthaw-runc failed: {type(error).__name__}: {error}", []


def _check(order: plan.Plan, spec: dict[str, Any], record: Journal) -> None:
    """Whether this container may become the snapshot at all; touches nothing."""
    manifest = snapshot.read(order.snapshot_dir, order.snapshot)
    if oci.has_terminal(spec):
        raise Unfit("the container asks for a terminal, and a snapshot has none")
    asked = oci.security_profile(spec, oci.node_namespaces(spec))
    difference = oci.difference(manifest.security, asked)
    if difference:
        raise Unfit(difference)
    _check_mounts(manifest, oci.mounts(spec, record.rootfs_path))
    if order.pages_mount is not None:
        pagesmount.check(spec, record.rootfs_path)
    if not os.path.isdir(order.images):
        raise Broken(f"the snapshot's images are not at {order.images}")


def _check_mounts(manifest: snapshot.Manifest, found: list[snapshot.Mount]) -> None:
    """The mounts of the snapshot must be those of the request.

    CRIU mounts what the snapshot has, with the flags that it has there: a volume that is
    read-only in the request would be writable, and one that the snapshot lacks would be missing.
    """
    by_place = {mount.destination: mount for mount in found}
    known = {mount.destination for mount in manifest.mounts}
    for mount in found:
        if mount.destination not in known:
            raise Unfit(f"this container has a mount at {mount.destination}, the snapshot has none")
    for wanted in manifest.mounts:
        there = by_place.get(wanted.destination)
        if there is None:
            raise Unfit(f"this container has no mount at {wanted.destination}, the snapshot has")
        if there.type != wanted.type:
            raise Unfit(
                f"the mount at {wanted.destination} is of type {wanted.type} in the snapshot "
                f"and {there.type} in this container"
            )
        if wanted.kind and there.kind and there.kind != wanted.kind:
            raise Unfit(
                f"the mount at {wanted.destination} is a {wanted.kind} in the snapshot "
                f"and a {there.kind} in this container"
            )
        if there.flags != wanted.flags:
            raise Unfit(
                f"the mount at {wanted.destination} is {_flags(wanted)} in the snapshot "
                f"and {_flags(there)} in this container"
            )


def _flags(mount: snapshot.Mount) -> str:
    """The flags in words; without any it can be written to."""
    return ",".join([*(() if "ro" in mount.flags else ("rw",)), *mount.flags])


def _apply_rootfs(
    record: Journal, order: plan.Plan, spec: dict[str, Any], tick: Callable[[], None]
) -> None:
    """Apply the snapshot's changed files; put on record what a failed restore gives back.

    Even without changed files the runtime makes mount points, and CRIU files that were deleted
    while open. A root filesystem that is no overlay is given back by nobody then, as little as
    after a failed ordinary start.
    """
    try:
        layer = overlay.find(record.rootfs_path)
    except Unfit:
        if order.rootfs_diff is not None:
            raise
        return
    record.rootfs = {**vars(layer)}
    record.save()
    if order.rootfs_diff is None:
        return
    from shim import rootfs_apply  # noqa: PLC0415 - reads tar archives

    capabilities = oci.security_profile(spec)["capabilities"]["bounding"]
    rootfs_apply.apply(order.rootfs_diff, layer.target, tick, devices="CAP_MKNOD" in capabilities)


def _extract_shm(
    record: Journal,
    order: plan.Plan,
    spec: dict[str, Any],
    run: str,
    tick: Callable[[], None],
) -> None:
    if order.shm is None:
        return
    from shim import shm  # noqa: PLC0415 - reads tar archives

    shared = shm.Shared(source=shm.source_of(spec), staging=f".podthaw-{order.id}")

    def save() -> None:
        record.shm = {**vars(shared)}
        record.save()

    before = shm.remembered(run, order.sandbox_id, order.container)
    shm.extract(order.shm, shared, before, save, tick)
    save()


def _restore_processes(
    record: Journal,
    order: plan.Plan,
    spec: dict[str, Any],
    run: str,
    deadline: float,
    *,
    times: Times,
) -> None:
    folder = plan.plan_dir(order.id, run)
    with times.part("settings"):
        sysctls.keep(order.images, spec)
    record.work, record.log = f"{record.path}.work", f"{folder}/restore.log"
    os.makedirs(record.work, mode=0o700, exist_ok=True)
    record.config, record.restoring = undo.original_config(record.bundle), True
    if order.pages_mount is not None:
        record.stub = f"{record.rootfs_path}{MOUNT_POINT}"
    record.save()
    configuration = _configuration(record, order, folder)
    annotations = {**spec.get("annotations", {}), CRIU_CONFIG: configuration}
    changed: oci.Spec = ipc.with_own_namespace(spec) if order.own_ipc else spec
    if order.pages_mount is not None:
        changed = pagesmount.add(changed, order.pages_mount["source"])
    changed = {**oci.with_real_sources(changed), "annotations": annotations}
    undo.replace_config(record.bundle, json.dumps(changed).encode(), keep=record.config)
    output = os.open(f"{folder}/runc.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.close(output)
    agent = None if order.pages_mount is None else _start_guard(record, run, folder)
    try:
        with times.part("runc"):
            status = supervise.run(
                record.runtime,
                _arguments(record, order, folder, spec),
                deadline,
                environment=_environment(order),
            )
    except supervise.DeadlineError:
        message = f"CRIU did not finish within {order.restore_timeout:g} seconds"
        raise _failure(record, folder, message, spec) from None
    if status > _SIGNALLED:
        raise Unfit(f"{record.runtime} was killed by signal {status - _SIGNALLED} at the restore")
    if status != 0:
        message = f"the restore failed with status {status}"
        raise _failure(record, folder, message, spec)
    if agent is not None:
        with times.part("guard"):
            agent.ready(deadline)
    undo.give_back_config(record.config, record.bundle)
    record.config = ""
    undo.clean_after_criu(record)
    oom.apply(spec, record.cgroups, _first_process(record.pid_file))
    if os.path.exists(f"{order.images}/{snapshot.AFFINITY}"):
        from pathlib import Path  # noqa: PLC0415

        from shim import affinity  # noqa: PLC0415 - few programs bind their threads

        affinity.apply(Path(order.images), record.cgroups)


def _start_guard(record: Journal, run: str, folder: str) -> guard.Agent:
    """Start the process that makes mapped memory behave as anonymous memory does."""
    agent = guard.start(record.container, record.cgroups, run=run, log=f"{folder}/guard.log")
    record.guard = [agent.pid, agent.started]
    record.save()
    return agent


def _configuration(record: Journal, order: plan.Plan, folder: str) -> str:
    """CRIU's configuration file: the plan's, or one with the memory file systems made for it."""
    path = f"{folder}/criu.conf"
    if order.tmpfs is None:
        return path
    from shim import tmpfs  # noqa: PLC0415 - whoever has none needs it not

    lines = tmpfs.make(order.tmpfs, record.work)
    longer = f"{record.work}/criu.conf"
    with open(path, encoding="utf-8") as file, open(longer, "w", encoding="utf-8") as new:
        new.write(file.read())
        new.writelines(lines)
    return longer


def _first_process(pid_file: str) -> int:
    """The process that the runtime names; 0 when it names none."""
    try:
        with open(pid_file, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _labels(spec: dict[str, Any]) -> list[str]:
    """SELinux labels of the request: CRIU would give back those of the captured pod."""
    process, linux = spec.get("process") or {}, spec.get("linux") or {}
    label, mounts = process.get("selinuxLabel"), linux.get("mountLabel")
    return [
        *(["--lsm-profile", f"selinux:{label}"] if label else []),
        *(["--lsm-mount-context", str(mounts)] if mounts else []),
    ]


def _arguments(record: Journal, order: plan.Plan, folder: str, spec: dict[str, Any]) -> list[str]:
    pid_file = ["--pid-file", record.pid_file] if record.pid_file else []
    return [
        *record.global_options,
        "--log",
        f"{folder}/runc.log",
        "restore",
        "--detach",
        "--bundle",
        record.bundle,
        *pid_file,
        "--image-path",
        order.images,
        "--work-path",
        record.work,
        "--tcp-established",
        "--file-locks",
        "--ext-unix-sk",
        *_labels(spec),
        record.container,
    ]


def _environment(order: plan.Plan) -> dict[str, str]:
    """Environment of the runtime below: runc looks CRIU up on PATH."""
    environment = dict(os.environ)
    if "/" in order.criu:
        folder = os.path.dirname(os.path.abspath(order.criu))
        environment["PATH"] = f"{folder}:{environment.get('PATH', os.defpath)}"
    return environment


def _failure(record: Journal, folder: str, what: str, spec: dict[str, Any]) -> PodthawError:
    from shim.criu import failure  # noqa: PLC0415 - only when it failed

    return failure.explain(record.work, folder, what, spec)
