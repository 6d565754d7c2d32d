"""The manifest of a snapshot: what was captured, from what, and what it needs.

A snapshot is a directory that never changes once it is published:

    manifest.json   this file; the snapshot is named by the SHA-256 of its bytes
    images/         CRIU's images (and, as ``pages-N.img``, the memory that CRIU copies)
    pages           memory that is mapped, page aligned and sparse (only when there is any)
    rootfs.tar      the writable layer as an OCI layer (``.wh.`` deletions, PAX xattrs)
    shm.tar         the content of /dev/shm (only when there is any)
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from shim.errors import Broken, Unfit

FORMAT = 1
"""Version of the manifest and of the layout. A reader refuses a newer one."""

MANIFEST = "manifest.json"
ROOTFS = "rootfs.tar"
SHM = "shm.tar"
IMAGES = "images"
AFFINITY = "affinity.json"
"""Beside CRIU's images, if a thread is bound to processors: ``{"allowed": [0, 1], "threads":
{"17": [0]}}``; thread ids are the container's own (:mod:`shim.affinity`)."""

_MAX_MANIFEST = 64 << 20  # bytes; a process table of thousands takes one
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a snapshot comes from."""

    namespace: str
    pod: str
    pod_uid: str
    container: str
    container_id: str
    image: str
    """Image reference as the user wrote it."""
    image_digest: str
    """The image's id, ``sha256:<hex>`` of its config; equal at capture and restore."""
    command: list[str]
    """The arguments of the first process, from the OCI spec."""


@dataclass(frozen=True, kw_only=True)
class HostNeeds:
    """What a host must have to run the snapshot."""

    arch: str
    """``uname -m``."""
    kernel: str
    """``uname -r`` at capture."""
    criu: str
    """Version of CRIU that made the dump, e.g. ``4.2.1``; an older one cannot restore it."""
    cpu_features: list[str]
    """CPU flags of /proc/cpuinfo at capture, sorted; each must be there at restore."""
    page_size: int
    cgroup: int
    """1 or 2."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A mount of the OCI spec that the restore needs again."""

    destination: str
    """As the OCI spec has it."""
    type: str
    """``bind`` or the filesystem type."""
    kind: str
    """``file`` or ``dir``: what lies at the destination."""
    flags: list[str] = field(default_factory=list)
    """What it forbids and how it propagates, e.g. ``nosuid``, ``ro``, ``rprivate``; sorted. CRIU
    mounts it again with the flags of the snapshot, so the request must ask for the same."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of the tree at capture."""

    pid: int
    """As seen inside the container's PID namespace."""
    parent: int
    name: str
    threads: int
    resident: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the snapshot."""

    path: str
    """Relative, normal, without ``..``."""
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole manifest."""

    created: str
    """RFC 3339, UTC."""
    source: Source
    host: HostNeeds
    security: dict[str, Any]
    """The security profile of the container (:func:`shim.spec.security_profile`)."""
    mounts: list[Mount]
    processes: list[Process]
    addresses: list[str]
    """IP addresses of the pod at capture."""
    hostname: str
    stdio: list[str]
    """What descriptors 0, 1 and 2 of the first process were, e.g. ``pipe:[123]``."""
    artifacts: list[Artifact]
    frozen_seconds: float = 0.0
    """How long the container stood still."""
    gpu: list[dict[str, Any]] = field(default_factory=list)
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of all artifacts."""
        return sum(artifact.size for artifact in self.artifacts)


def encode(manifest: Manifest) -> bytes:
    """The manifest as the bytes whose digest names the snapshot."""
    return json.dumps(asdict(manifest), indent=1, sort_keys=True).encode() + b"\n"


def digest(data: bytes) -> str:
    """``sha256:<hex>`` of a manifest's bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> Manifest:
    """Read a manifest; Broken with the reason when it is not a good one.

    Every field is checked for its type, so that whoever uses a manifest can rely on it.
    """
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict) or type(raw.get("format")) is not int:
            raise Broken("the snapshot's manifest has no format number")
        if not 1 <= raw["format"] <= FORMAT:
            raise Broken(
                f"the snapshot has format {raw['format']}, this Podthaw reads up to {FORMAT}"
            )
        manifest = _make(Manifest, raw)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Broken(f"the snapshot's manifest cannot be read: {error}") from error
    for artifact in manifest.artifacts:
        _check_artifact(artifact)
    if len({artifact.path for artifact in manifest.artifacts}) != len(manifest.artifacts):
        raise Broken("the snapshot's manifest names a path twice")
    return manifest


def read(folder: Path, wanted: str) -> Manifest:
    """Read the manifest of the snapshot in ``folder``, which must have the digest ``wanted``.

    Broken when it is missing or altered; Unfit when the file system fails to read it, as a shared
    one may for a while.
    """
    try:
        data = _read_file(folder / MANIFEST)
    except FileNotFoundError:
        raise Broken("the snapshot has no manifest") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_plain() from None
        raise Unfit(f"the snapshot's manifest cannot be read: {error.strerror}") from error
    found = digest(data)
    if found != wanted:
        raise Broken(f"the snapshot's manifest was altered: wanted {wanted}, found {found}")
    return decode(data)


def _not_plain() -> Broken:
    return Broken(f"{MANIFEST} of the snapshot is not a plain file of a manifest's size")


def _read_file(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_MANIFEST:
            raise _not_plain()
        return file.read()


def _make(kind: type[_T], raw: object) -> _T:
    """An object of one of the classes above from JSON, each field of its type."""
    if not isinstance(raw, dict):
        raise TypeError(f"wanted an object for {kind.__name__}, found {type(raw).__name__}")
    values = dict(raw)
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name in values:
            where = f"{kind.__name__}.{one.name}"
            values[one.name] = _value(str(one.type), values[one.name], where)
    return kind(**values)


def _value(annotation: str, raw: object, where: str) -> object:
    if annotation.startswith("list["):
        if not isinstance(raw, list):
            raise TypeError(f"wanted a list for {where}, found {type(raw).__name__}")
        return [_value(annotation[5:-1], one, where) for one in raw]
    if annotation in _PARTS:
        return _make(_PARTS[annotation], raw)
    if type(raw) not in _JSON[annotation]:
        raise TypeError(f"wanted {annotation} for {where}, found {type(raw).__name__}")
    return raw


_PARTS: dict[str, type] = {
    part.__name__: part for part in (Source, HostNeeds, Mount, Process, Artifact)
}
_JSON: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),  # and not bool, which is one of its kinds
    "float": (float, int),
    "dict[str, Any]": (dict,),
}


def _check_artifact(artifact: Artifact) -> None:
    path = PurePosixPath(artifact.path)
    if not artifact.path or path.is_absolute() or ".." in path.parts or str(path) != artifact.path:
        raise Broken(f"the snapshot's manifest names the path {artifact.path!r}")
    if not artifact.path.isprintable() or artifact.path == MANIFEST:
        raise Broken(f"the snapshot's manifest names the path {artifact.path!r}")
    if not 0 <= artifact.size < 1 << 63:
        raise Broken(f"the snapshot's manifest gives {artifact.path} the size {artifact.size}")
