"""Dump a running container: its processes by CRIU, its files while they stand still.

``criu dump`` is run directly, for any container that runc runs, with the options that
``runc restore`` will match. The order: take the container's lock, undo what an earlier capture
may have left, write a record of what must be undone and start the guardian, run CRIU, and when
everything is saved and nothing moves, read the writable layer and /dev/shm; then CRIU resumes
the container (or ends it). Whatever fails, and whoever is killed, the container runs on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from shim import (
    dumprun,
    guard,
    leftovers,
    outside,
    procfs,
    rootfs,
    snapshot,
    watches,
)
from shim.affinity import save as save_affinity
from shim.container import ContainerRef, short, start_time
from shim.criu import command, log
from shim.criu.stats import dump_seconds
from shim.cuda import DRIVER
from shim.cuda.dumping import GpuDump
from shim.dumprun import CaptureFailed, Files
from shim.errors import PodthawError, Unfit
from shim.guardian import Guardian
from shim.handshake import Handshake
from shim.leftovers import Record
from shim.plan import DEFAULT_RUN

DESCRIPTORS = "descriptors.json"
"""Beside CRIU's images: what runc gives to descriptors 0, 1 and 2 at restore."""

_GHOST_LIMIT = 1 << 40
"""Bytes; CRIU's own limit of 1 MiB for deleted open files has no reason on a disk of today."""

_FREEZE_SECONDS = 10
"""A process that cannot be stopped for so long will not be."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """How to dump."""

    stage: Path
    """Where the snapshot's files go: a folder of its own, empty, removed when the dump fails."""
    work: Path
    """Folder for CRIU's log; not part of the snapshot, and removed when the dump fails."""
    run: Path = Path(DEFAULT_RUN)
    """Locks and records of captures are kept below."""
    criu: str = "criu"
    cuda: str = DRIVER
    """How GPU state is saved (:mod:`shim.cuda`)."""
    leave_running: bool = True
    """False: the container is killed where it stands, once everything is saved."""
    timeout: float = 60.0
    """Seconds after which the dump is given up."""
    before_end: Callable[[], None] | None = None
    """Called, with the container standing still, before it is killed (``leave_running`` False);
    when it raises, the container runs on."""
    scratch: tuple[Path, ...] = ()
    """What is removed besides the two folders when the dump fails or this process dies."""


@dataclass(frozen=True, kw_only=True)
class DumpResult:
    """What was saved."""

    frozen_seconds: float
    """How long the processes stood still."""
    stdio: list[str]
    """What descriptors 0, 1 and 2 of the first process were."""
    has_rootfs: bool
    has_shm: bool
    network_lock: command.NetworkLock
    log: Path
    phases: dict[str, float] = field(default_factory=dict)
    """Name → seconds: freeze and memory (by CRIU), files."""


@dataclass
class Session:
    """The only capture of a container under way, from its first look to what is made of it."""

    lock: int
    """Descriptor of the container's lock."""
    record: Path
    """What must be undone is written here, while there is anything."""
    guardian: Guardian | None = None
    """Undoes it when this process dies."""
    settled: bool = True
    """Whether the container is as it should be; else the guardian still has to see to it."""


def dump(container: ContainerRef, order: Order, *, session: Session | None = None) -> DumpResult:
    """Dump a container; ``session`` is that of :func:`exclusive`, if the caller has one.

    Until the session ends its guardian looks after the stage, too: it is removed if this process
    dies before the snapshot is where it belongs.

    Raises Unfit when another capture of it runs or its root filesystem is no overlay,
    CaptureFailed (with the end of CRIU's log) when the dump fails or takes too long. In each case
    the container runs on and nothing is left.
    """
    with ExitStack() as stack:
        session = session or stack.enter_context(exclusive(container.id, order.run))
        overlay = rootfs.overlay_at(container.rootfs)
        shared = outside.shm_folder(container)
        scratch = order.stage, order.work, *order.scratch, _socket_path(container.id, order.run)
        record = Record(
            container=container.id,
            pid=container.pid,
            started=container.started,
            freezer=str(container.freezer) if container.freezer else None,
            cgroup_version=container.cgroup_version,
            since=time.time(),
            link_folders=[str(overlay.upper)] + ([str(shared)] if shared else []),
            log=str(order.work / command.LOG),
            scratch=[str(path) for path in scratch],
        )
        files = Files(
            overlay=overlay,
            mount_points=outside.mount_points(container),
            shared=shared,
            stage=order.stage,
        )
        with guard.paused(str(order.run), container.id):
            return _guarded_dump(container, order, record, files, session)


@contextmanager
def exclusive(container_id: str, run: Path = Path(DEFAULT_RUN)) -> Iterator[Session]:
    """The only capture of a container; first undoes what one left that was killed.

    Unfit while another one runs.
    """
    with locked(container_id, run) as lock:
        recover(container_id, run)
        session = Session(lock=lock, record=_record_path(container_id, run))
        try:
            yield session
        finally:
            if session.settled:
                session.record.unlink(missing_ok=True)
            if session.guardian is not None:
                session.guardian.release(well=session.settled)


def recover(container_id: str, run: Path = Path(DEFAULT_RUN)) -> list[str]:
    """Undo what a capture that was killed together with its guardian left on a container.

    The caller holds the container's lock. Returns what had to be done.
    """
    path = _record_path(container_id, run)
    record = leftovers.read(path)
    if record is None:
        return []
    done = leftovers.undo(record)
    path.unlink(missing_ok=True)
    return done


@contextmanager
def locked(container_id: str, run: Path = Path(DEFAULT_RUN)) -> Iterator[int]:
    """The lock of a container: one capture at a time; Unfit while another one runs."""
    path = _lock_path(container_id, run)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = _lock_file(path)
    except BlockingIOError:
        raise Unfit(f"another capture of the container {short(container_id)} is running") from None
    except OSError as error:
        raise Unfit(f"the lock folder {path.parent} cannot be used: {error.strerror}") from error
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(fd)


def _guarded_dump(
    container: ContainerRef, order: Order, record: Record, files: Files, session: Session
) -> DumpResult:
    session.record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    record.write(session.record)
    lock_file = _lock_path(container.id, order.run)
    guardian = session.guardian = Guardian(session.record, lock=(lock_file, session.lock))
    touched = session.settled = False
    gpu = GpuDump(container, order.cuda)

    def announce(pids: list[int]) -> None:
        nonlocal record
        started = {str(pid): start_time(pid) or 0 for pid in pids}
        record = replace(record, cuda=order.cuda, cuda_processes=started)
        record.write(session.record)

    try:
        stdio, method = _prepare(container, order)
        address = _socket_path(container.id, order.run)
        with Handshake(order.work / "action.sh", address) as handshake:
            arguments = command.dump(_criu_order(container, order, handshake.script, method))
            guardian.wait_ready()
            touched = True
            deadline = time.monotonic() + order.timeout
            gpu.suspend(order.stage / snapshot.IMAGES, announce, deadline)
            with dumprun.started(arguments, order.work, guardian.watch) as process:
                save = partial(_while_frozen, container, files, order, deadline)
                process.follow(handshake, save, deadline)
        _check_status(process.status, order)
        if order.leave_running:
            leftovers.thaw(record.freezer, record.cgroup_version)
            gpu.resume()
    except BaseException as error:
        gpu.close()
        done = leftovers.undo(record, touched=touched)
        session.settled = True
        _check_gpu(done, error)
        if isinstance(error, OSError):
            raise _not_written(error) from error
        raise
    gpu.close()
    if not order.leave_running:
        # What CRIU keeps for a restore elsewhere is in the way of the pod's other containers.
        leftovers.undo(replace(record, scratch=[]))
    leftovers.only_files(record).write(session.record)
    session.settled = True
    freeze, frozen, memory = dump_seconds(order.work)
    return DumpResult(
        frozen_seconds=max(frozen, gpu.still_seconds),
        stdio=stdio,
        has_rootfs=files.has_rootfs,
        has_shm=files.has_shm,
        network_lock=method,
        log=order.work / command.LOG,
        phases={"freeze": freeze, "memory": memory, "files": files.seconds, **gpu.phases},
    )


def _check_gpu(done: list[str], error: BaseException) -> None:
    """CaptureFailed when a process was not brought back to running after ``error``."""
    lost = [line for line in done if line.startswith(leftovers.NOT_BACK)]
    if lost:
        why = lost[0].removeprefix(leftovers.NOT_BACK)
        raise CaptureFailed(
            f"the capture failed, and the container does not run on: {why}; first there was: "
            f"{error}",
            detail="\n".join(lost[1:]),
        ) from error


def _prepare(container: ContainerRef, order: Order) -> tuple[list[str], command.NetworkLock]:
    """Make the folders and what is beside CRIU's images; nothing is frozen yet."""
    order.work.mkdir(mode=0o700, parents=True, exist_ok=True)
    images = order.stage / snapshot.IMAGES
    images.mkdir(mode=0o700)
    stdio = outside.standard_streams(container)
    (images / DESCRIPTORS).write_text(json.dumps(stdio))
    return stdio, command.network_lock(order.criu)


def _lock_file(path: Path) -> int:
    """Open and lock a file that its holder removes before it lets go; BlockingIOError if held."""
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its holder removed it between the two calls


def _while_frozen(container: ContainerRef, files: Files, order: Order, deadline: float) -> None:
    files.read(deadline)
    pids, images = procfs.tree_pids(container), order.stage / snapshot.IMAGES
    save_affinity(pids, container.cgroups.values(), images)
    if not order.leave_running and order.before_end is not None:
        order.before_end()


def _criu_order(
    container: ContainerRef, order: Order, script: Path, method: command.NetworkLock
) -> command.Dump:
    found = outside.mounts_of(container)
    return command.Dump(
        criu=order.criu,
        pid=container.pid,
        root=container.rootfs,
        images=order.stage / snapshot.IMAGES,
        work=order.work,
        external=found.external,
        others=[*outside.external_namespaces(container), *outside.removed_pages(container)],
        freezer=outside.freezer(container),
        leave_running=order.leave_running,
        network_lock=method,
        script=script,
        freeze_timeout=max(1, min(int(order.timeout), _FREEZE_SECONDS)),
        ghost_limit=_GHOST_LIMIT,
        watched=watches.paths(container),
    )


def _check_status(status: int, order: Order) -> None:
    """CaptureFailed, with what CRIU's log tells, unless CRIU succeeded."""
    if status == 0:
        return
    lines = log.tail(order.work / command.LOG)
    meaning = log.explain(lines)
    if not lines or not meaning:
        with contextlib.suppress(OSError):
            lines += (order.work / dumprun.OUTPUT).read_text(errors="replace").splitlines()[-5:]
    if status < 0:
        why = f"CRIU was killed by signal {-status}"
    elif meaning:
        why = meaning
    elif lines:
        why = f"CRIU ended with status {status}: {lines[-1]}"
    else:
        why = f"CRIU ended with status {status} and said nothing"
    raise CaptureFailed(f"the dump failed, the container runs on: {why}", detail="\n".join(lines))


def _not_written(error: OSError) -> PodthawError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = "the disk is full"
    else:
        why = f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
    return CaptureFailed(f"the snapshot could not be written, the container runs on: {why}")


def _record_path(container_id: str, run: Path) -> Path:
    # Short, since a socket's path beside it may have 107 bytes at most.
    return run / "captures" / f"{container_id[:32]}.json"


def _lock_path(container_id: str, run: Path) -> Path:
    return run / "locks" / container_id


def _socket_path(container_id: str, run: Path) -> Path:
    return _record_path(container_id, run).with_suffix(".sock")
