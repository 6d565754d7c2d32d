"""A capture from end to end: look, dump, describe, publish; or write the standard tar."""

from __future__ import annotations

import errno
import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cri import archive, gpus, manifesting
from cri.quiesce import Hooks, quiesced
from cri.store import Store
from cri.store.refs import check_name
from cri.target import Target
from shim import capture, guard, host, inspection, preflight, snapshot
from shim.capture import Order
from shim.cuda import DRIVER, devices
from shim.dumprun import CaptureFailed
from shim.errors import Refused, Unfit
from shim.finding import Finding
from shim.picture import Picture
from shim.saved import SavedMemory
from shim.snapshot import MemoryMode


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to capture."""

    run: Path
    criu: str = "criu"
    cuda: str = DRIVER
    """How GPU state is saved (:mod:`shim.cuda`)."""
    stop: bool = False
    """Kill the container once the snapshot is published."""
    timeout: float = 60.0
    """Seconds that the hook before it and the dump may take together."""
    memory: MemoryMode = "mapped"
    """How the memory will come back; ``mapped`` is ``eager`` where there is nothing to map."""
    containerd: str = "/run/containerd/containerd.sock"
    """containerd's socket, for hooks that run a program in the container."""


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A snapshot that was taken."""

    digest: str
    namespace: str
    name: str
    size: int
    """Bytes of all files, without the holes of ``pages``."""
    memory: str
    """How it comes back: ``mapped`` or ``eager``."""
    frozen_seconds: float
    seconds: float
    """The whole capture, hashing and publication included."""
    phases: dict[str, float] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)


def check(target: Target, options: Options, destination: Path) -> list[Finding]:
    """What stands in the way of a capture, failures first; Unfit while another one runs.

    Hooks are read and not carried out; Refused when one is malformed.
    """
    Hooks.of(target)
    with capture.exclusive(target.container.id, options.run):
        return look(target, options, destination)[1]


def look(target: Target, options: Options, destination: Path) -> tuple[Picture, list[Finding]]:
    """Preflight: what the container is, and what stands in the way of a capture."""
    with guard.paused(str(options.run), target.container.id):  # no process is seen as traced by it
        seen = inspection.picture(
            target.container, criu=options.criu, store=destination, cuda=options.cuda
        )
    users = [task.pid for task in seen.tasks if task.cuda]
    if users:
        found = gpus.of_container(devices.gpu_numbers(target.container.spec), users)
        seen = replace(seen, device_memory=sum(gpu.used for gpu in found))
    return seen, preflight.check(seen)


def require(target: Target, findings: list[Finding]) -> list[Finding]:
    """Unfit with every failure of preflight, if there is any; else the warnings."""
    failures = [finding for finding in findings if finding.severity == "fail"]
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise Unfit(
            f"{target} cannot be captured: {failures[0]}{more}",
            detail="\n".join(f"{finding.check}: {finding}" for finding in failures[1:]),
        )
    return findings


def take(target: Target, name: str, store: Store, options: Options) -> Captured:
    """Capture a container into the store under a name of its pod's namespace.

    Raises PodthawError with a sentence; whatever fails, the container runs on and the store is as
    before.
    """
    check_name(name)
    begin = time.monotonic()
    hooks = Hooks.of(target)
    needs = host.facts(options.criu)
    published: list[tuple[str, snapshot.Manifest]] = []

    def publish(stage: Path, frozen: float) -> None:
        mode = saved.finish(stage, options.memory)
        stdio = json.loads((stage / snapshot.IMAGES / capture.DESCRIPTORS).read_bytes())
        artifacts = manifesting.hash_files(stage)
        manifest = manifesting.build(
            target,
            seen,
            needs,
            artifacts,
            stdio=stdio,
            frozen_seconds=frozen,
            memory=mode,
            gpus=used,
        )
        digest = store.publish(stage, snapshot.encode(manifest))
        store.set_name(target.namespace, name, digest)
        published.append((digest, manifest))

    with capture.exclusive(target.container.id, options.run) as session, ExitStack() as stack:
        store.create()  # a store that cannot be written is told before the hook
        seen, findings = look(target, options, store.root)
        warnings = require(target, findings)
        with quiesced(target, hooks, options) as told:
            if hooks.before is not None:  # what it is like now is what will be captured
                seen, findings = look(target, options, store.root)
                warnings = require(target, findings)
            used = _gpus(target, seen)
            saved = stack.enter_context(SavedMemory.of(target.container))
            # As late as can be: until the dump's guardian is there, nobody would remove them
            # should this process be killed.
            stage = stack.enter_context(store.stage())
            work = stack.enter_context(_work(options.run))
            result = capture.dump(
                target.container,
                Order(
                    stage=stage,
                    work=work,
                    run=options.run,
                    criu=options.criu,
                    cuda=options.cuda,
                    leave_running=not options.stop,
                    timeout=told.left,
                    before_end=lambda: publish(stage, 0.0),
                ),
                session=session,
            )
        if not options.stop:
            with _written():
                publish(stage, result.frozen_seconds)
    digest, manifest = published[0]
    return Captured(
        digest=digest,
        namespace=target.namespace,
        name=name,
        size=manifest.size,
        memory=manifest.memory,
        frozen_seconds=result.frozen_seconds,
        seconds=time.monotonic() - begin,
        phases={**told.phases, **result.phases, **saved.phases},
        warnings=[*warnings, *told.warnings],
    )


def export(target: Target, location: Path, options: Options) -> list[Finding]:
    """Capture a container into a checkpoint tar at ``location``, as kubelet and crictl ask for.

    The tar appears there whole or not at all. Returns warnings.
    """
    if not location.is_absolute() or location.name in ("", ".", ".."):
        raise Refused(f"the location {str(location)!r} is not an absolute path of a file")
    hooks = Hooks.of(target)
    with (
        capture.exclusive(target.container.id, options.run) as session,
        _beside(location) as folder,
        _work(options.run) as work,
        SavedMemory.of(target.container) as saved,
    ):
        warnings = require(target, look(target, options, location.parent)[1])
        stage = folder / "stage"
        stage.mkdir(mode=0o700)
        with quiesced(target, hooks, options) as told:
            if hooks.before is not None:
                warnings = require(target, look(target, options, location.parent)[1])
            capture.dump(
                target.container,
                Order(
                    stage=stage,
                    work=work,
                    run=options.run,
                    criu=options.criu,
                    cuda=options.cuda,
                    timeout=told.left,
                    scratch=(folder,),
                ),
                session=session,
            )
        with _written():
            saved.finish(stage, "eager")  # a reader of the standard tar knows nothing else
            archive.write(target, stage, work, location)
    return [*warnings, *told.warnings]


def _gpus(target: Target, seen: Picture) -> list[gpus.Gpu]:
    """The GPUs of a container, if a process of it uses CUDA. Raises Unfit."""
    users = [task.pid for task in seen.tasks if task.cuda]
    if not users:
        return []
    numbers = devices.gpu_numbers(target.container.spec)
    if not numbers:
        raise Unfit(
            f"{target} uses a GPU that its OCI spec does not have, as it is with NVIDIA's runtime "
            "in its mode legacy; wanted the mode cdi, or containerd's own CDI"
        )
    found = gpus.of_container(numbers, users)
    if len(found) != len(numbers):
        raise Unfit(
            f"{target} has {len(numbers)} GPUs, and NVIDIA's management library NVML tells of "
            f"{len(found)} of them"
        )
    return found


def _work(run: Path) -> AbstractContextManager[Path]:
    """A folder for CRIU's log, on the run-time file system: it must hold the log of a full disk."""
    folders = run / "captures"
    name = f"work.{secrets.token_hex(8)}"
    return _scratch(folders / name, f"the folder {folders} cannot be used", parents=True)


def _beside(location: Path) -> AbstractContextManager[Path]:
    name = f".podthaw.{secrets.token_hex(8)}"
    return _scratch(location.parent / name, f"nothing can be written to {location.parent}")


@contextmanager
def _scratch(folder: Path, trouble: str, *, parents: bool = False) -> Iterator[Path]:
    """A private folder while it is needed. Raises Unfit that begins with ``trouble``."""
    try:
        folder.mkdir(mode=0o700, parents=parents)
    except OSError as error:
        raise Unfit(f"{trouble}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else error.strerror or str(error)
        raise CaptureFailed(
            f"the snapshot could not be written, the container runs on: {why}"
        ) from error
