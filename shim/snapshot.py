"""The manifest of a snapshot: what was captured, from what, and what it needs.

A snapshot is a directory that never changes once it is published:

    manifest.json   this file; the snapshot is named by the SHA-256 of its bytes
    images/         CRIU's images (and, as ``pages-N.img``, the memory that CRIU copies)
    pages           memory that is mapped, page aligned and sparse (only when there is any)
    pages.sums      its digests, so that it is verified in parallel and holes are never read
    memory.json     which memory of which process lies where in it (:mod:`shim.memory`)
    rootfs.tar      the writable layer as an OCI layer (``.wh.`` deletions, PAX xattrs)
    shm.tar         the content of /dev/shm (only when there is any)
"""

from __future__ import annotations

import errno
import json
import os
import stat

from shim.digest import hexdigest
from shim.errors import Broken, Unfit
from shim.memory import MEMORY, PAGES, SUMS
from shim.record import field, record

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Literal, TypeVar

    _T = TypeVar("_T")
    MemoryMode = Literal["mapped", "eager"]
else:
    MemoryMode = str

FORMAT = 2
"""Version of the manifest and of the layout. A reader refuses a newer one.

1 has no mapped memory: what it lacks has the values that it meant.
"""

MANIFEST = "manifest.json"
ROOTFS = "rootfs.tar"
SHM = "shm.tar"
IMAGES = "images"
AFFINITY = "affinity.json"
"""Beside CRIU's images, if a thread is bound to processors: ``{"allowed": [0, 1], "threads":
{"17": [0]}}``; thread ids are the container's own (:mod:`shim.affinity`)."""

_MAX_MANIFEST = 64 << 20  # bytes; a process table of thousands takes one

MEMORY_MODES = ("mapped", "eager")
"""How memory comes back: mapped from ``pages`` and read when it is touched, or all copied by CRIU
before the processes run."""


@record(frozen=True, kw_only=True)
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


@record(frozen=True, kw_only=True)
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


@record(frozen=True, kw_only=True)
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


@record(frozen=True, kw_only=True)
class Process:
    """One process of the tree at capture."""

    pid: int
    """As seen inside the container's PID namespace."""
    parent: int
    name: str
    threads: int
    resident: int
    """Bytes."""


@record(frozen=True, kw_only=True)
class Artifact:
    """One file of the snapshot."""

    path: str
    """Relative, normal, without ``..``."""
    size: int
    """Bytes, as ``stat`` has it."""
    sha256: str
    """Of its bytes; of ``pages``, the SHA-256 of the bytes of ``pages.sums``."""
    holes: int = 0
    """Bytes of ``pages`` that are zero and not stored."""

    @property
    def stored(self) -> int:
        """Bytes that there are to read."""
        return self.size - self.holes


@record(frozen=True, kw_only=True)
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
    memory: str = "eager"
    """:data:`MemoryMode`; ``mapped`` if and only if there is a ``pages``."""
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of all artifacts, without the holes."""
        return sum(artifact.stored for artifact in self.artifacts)

    def artifact(self, path: str) -> Artifact | None:
        """The artifact of that path, if there is one."""
        return next((one for one in self.artifacts if one.path == path), None)


def encode(manifest: Manifest) -> bytes:
    """The manifest as the bytes whose digest names the snapshot."""
    from dataclasses import asdict  # noqa: PLC0415 - a restore only reads

    return json.dumps(asdict(manifest), indent=1, sort_keys=True).encode() + b"\n"


def digest(data: bytes) -> str:
    """``sha256:<hex>`` of a manifest's bytes."""
    return "sha256:" + hexdigest(data)


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
    _check_memory(manifest)
    return manifest


def read(folder: str | Path, wanted: str) -> Manifest:
    """Read the manifest of the snapshot in ``folder``, which must have the digest ``wanted``.

    Broken when it is missing or altered; Unfit when the file system fails to read it, as a shared
    one may for a while.
    """
    try:
        data = _read_file(os.path.join(folder, MANIFEST))
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


def _read_file(path: str) -> bytes:
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
    for name, wanted in kind.__annotations__.items():
        if name in values:
            values[name] = _value(wanted, values[name], f"{kind.__name__}.{name}")
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
    parts = artifact.path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise Broken(f"the snapshot's manifest names the path {artifact.path!r}")
    if not artifact.path.isprintable() or artifact.path == MANIFEST:
        raise Broken(f"the snapshot's manifest names the path {artifact.path!r}")
    if not 0 <= artifact.size < 1 << 63:
        raise Broken(f"the snapshot's manifest gives {artifact.path} the size {artifact.size}")
    if not 0 <= artifact.holes <= (artifact.size if artifact.path == PAGES else 0):
        raise Broken(
            f"the snapshot's manifest gives {artifact.path} of {artifact.size} bytes "
            f"{artifact.holes} bytes of holes"
        )


def _check_memory(manifest: Manifest) -> None:
    """``pages`` has its digests and its map beside it, and nothing else speaks of mapped memory."""
    if manifest.memory not in MEMORY_MODES:
        raise Broken(
            f"the snapshot's memory is {manifest.memory!r:.80}, this Podthaw knows "
            + " and ".join(MEMORY_MODES)
        )
    wanted = manifest.memory == "mapped"
    for path in (PAGES, SUMS, MEMORY):
        if (manifest.artifact(path) is not None) != wanted:
            how = "has no" if wanted else "has a"
            raise Broken(f"the snapshot's memory is {manifest.memory}, but it {how} {path}")
    pages, sums = manifest.artifact(PAGES), manifest.artifact(SUMS)
    if pages is not None and sums is not None and pages.sha256 != sums.sha256:
        raise Broken(
            f"the snapshot's manifest gives {PAGES} another digest than {SUMS}: "
            f"{pages.sha256} and {sums.sha256}"
        )
