"""The checkpoint tar as kubelet, crictl and containerd have it, and checkpointctl reads it.

containerd's flavour: ``checkpoint/`` with CRIU's images, ``config.dump``, ``spec.dump``,
``status.dump``, ``status``, ``rootfs-diff.tar``, ``dump.log``, ``stats-dump`` and
``container.log``; uncompressed, readable by root alone. /dev/shm goes where Podman has it,
``devshm-checkpoint.tar``.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import tarfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cri.target import Target
from shim import snapshot
from shim.criu import command, stats

_NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time: not restored."""


def write(target: Target, stage: Path, work: Path, location: Path) -> None:
    """Write the tar of a dump (its stage and its work folder) to ``location``.

    It appears there whole or not at all. Raises OSError.
    """
    aside = location.with_name(f".{location.name[:200]}.{secrets.token_hex(8)}")
    fd = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                _fill(tar, target, stage, work)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(location)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def config_dump(target: Target, now: float) -> dict[str, Any]:
    """``config.dump``: where the checkpoint comes from."""
    status = target.status
    return {
        "id": status.id,
        "name": target.name,
        "rootfsImage": status.image.image,
        "rootfsImageRef": status.image_ref,
        "rootfsImageName": status.image.user_specified_image or status.image.image,
        "runtime": target.sandbox.runtime_handler or "runc",
        "createdTime": _rfc3339(status.created_at / 1e9),
        "checkpointedTime": _rfc3339(now),
        "restoredTime": _NEVER,
        "restored": False,
    }


def status_dump(target: Target) -> dict[str, Any]:
    """``status.dump``: the CRI's ContainerStatus, in the JSON of Go's structures."""
    status = target.status
    return {
        "id": status.id,
        "metadata": {"name": status.metadata.name, "attempt": status.metadata.attempt},
        "state": int(status.state),
        "created_at": status.created_at,
        "started_at": status.started_at,
        "image": {"image": status.image.image},
        "image_ref": status.image_ref,
        "labels": dict(status.labels),
        "annotations": dict(status.annotations),
        "mounts": [
            {
                "container_path": mount.container_path,
                "host_path": mount.host_path,
                "readonly": mount.readonly,
            }
            for mount in status.mounts
        ],
        "log_path": status.log_path,
    }


def status_file(target: Target) -> dict[str, Any]:
    """``status``: containerd's own record of the container."""
    return {
        "CreatedAt": target.status.created_at,
        "StartedAt": target.status.started_at,
        "FinishedAt": 0,
        "ExitCode": 0,
        "Pid": target.container.pid,
        "Reason": "",
        "Message": "",
    }


def _fill(tar: tarfile.TarFile, target: Target, stage: Path, work: Path) -> None:
    _add_folder(tar, "checkpoint")
    images = stage / snapshot.IMAGES
    for path in sorted(images.iterdir()):
        _add_file(tar, f"checkpoint/{path.name}", path)
    for name, value in (
        ("config.dump", config_dump(target, time.time())),
        ("spec.dump", target.container.spec),
        ("status.dump", status_dump(target)),
        ("status", status_file(target)),
    ):
        _add_bytes(tar, name, json.dumps(value).encode())
    for name, path in (
        ("rootfs-diff.tar", stage / snapshot.ROOTFS),
        ("devshm-checkpoint.tar", stage / snapshot.SHM),
        ("dump.log", work / command.LOG),
        (stats.FILE, work / stats.FILE),
        ("container.log", Path(target.status.log_path)),
    ):
        if path.is_file():
            _add_file(tar, name, path)


def _add_folder(tar: tarfile.TarFile, name: str) -> None:
    info = _entry(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o700
    tar.addfile(info)


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = _entry(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _add_file(tar: tarfile.TarFile, name: str, path: Path) -> None:
    with path.open("rb") as file:
        info = _entry(name)
        info.size = os.fstat(file.fileno()).st_size  # a log may grow meanwhile
        tar.addfile(info, file)


def _entry(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o600
    info.mtime = int(time.time())
    return info


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
