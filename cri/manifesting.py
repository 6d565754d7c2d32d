"""The manifest of a snapshot that was just taken: what it is, and the digest of each file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from cri.gpus import Gpu
from cri.store.artifacts import walk
from cri.store.pages import chunks_of
from cri.target import Target
from shim import spec as oci
from shim.memory import PAGES, SUMS
from shim.namespaces import in_namespace
from shim.picture import Picture
from shim.snapshot import (
    MANIFEST,
    Artifact,
    HostNeeds,
    Manifest,
    MemoryMode,
    Process,
    Source,
)

_CHUNK = 1 << 20


def build(
    target: Target,
    seen: Picture,
    host: HostNeeds,
    artifacts: list[Artifact],
    *,
    stdio: list[str],
    frozen_seconds: float,
    memory: MemoryMode = "eager",
    gpus: Sequence[Gpu] = (),
) -> Manifest:
    """The manifest of a dump of ``target``; ``seen`` is what preflight saw of it."""
    container = target.container
    return Manifest(
        created=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        source=Source(
            namespace=target.namespace,
            pod=target.pod,
            pod_uid=target.sandbox.metadata.uid,
            container=target.name,
            container_id=target.status.id,
            image=target.status.image.user_specified_image or target.status.image.image,
            image_digest=target.image_id,
            command=oci.arguments(container.spec),
        ),
        host=host,
        security=oci.security_profile(container.spec, oci.node_namespaces(container.spec)),
        mounts=oci.mounts(container.spec, container.rootfs),
        processes=processes(seen),
        addresses=target.addresses,
        hostname=in_namespace(f"/proc/{container.pid}/ns/uts", lambda: os.uname().nodename),
        stdio=stdio,
        artifacts=artifacts,
        frozen_seconds=round(frozen_seconds, 6),
        memory=memory,
        gpu=[asdict(gpu) for gpu in gpus],
    )


def processes(seen: Picture) -> list[Process]:
    """The process table, with the ids that processes have inside the container."""
    inner = {task.pid: task.inner for task in seen.tasks}
    return [
        Process(
            pid=task.inner,
            parent=inner.get(task.parent, 0),
            name=task.name,
            threads=task.threads,
            resident=task.resident,
        )
        for task in seen.tasks
    ]


def hash_files(folder: Path, *, workers: int | None = None) -> list[Artifact]:
    """Size and SHA-256 of every file below a folder but the manifest, several at a time.

    ``pages`` is not read: its digests lie beside it since it was written. Raises OSError when a
    file cannot be read, Broken when these digests are not of this ``pages``.
    """
    found: Sequence[tuple[str, os.stat_result]] = [
        (path, status)
        for path, status in walk(folder)
        if stat.S_ISREG(status.st_mode) and path != MANIFEST
    ]
    # The large ones first, so that the last one to end is a small one.
    by_size = sorted(found, key=lambda entry: -entry[1].st_size)
    by_size = [entry for entry in by_size if entry[0] != PAGES]
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool:
        digests = dict(
            zip(
                (path for path, _ in by_size),
                pool.map(lambda entry: _sha256(folder / entry[0]), by_size),
                strict=True,
            )
        )
    return [
        _pages(folder, status.st_size, digests)
        if path == PAGES
        else Artifact(path=path, size=status.st_size, sha256=digests[path])
        for path, status in found
    ]


def _pages(folder: Path, size: int, digests: Mapping[str, str]) -> Artifact:
    chunks = chunks_of((folder / SUMS).read_bytes(), size)
    holes = size - sum(chunk.length for chunk in chunks)
    return Artifact(path=PAGES, size=size, sha256=digests[SUMS], holes=holes)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
