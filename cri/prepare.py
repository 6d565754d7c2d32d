"""The plan of one restore: its directory with CRIU's images made fit for this very pod.

Most images are symbolic links into the store. The few small ones that name the old pod are
written anew (:mod:`shim.criu.rewrite`). Blocking; the daemon runs it in a thread.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shim import hooks, ipc, plan
from shim.criu import rewrite, tmpfs
from shim.cuda import DRIVER
from shim.errors import Broken, Unfit
from shim.memory import MOUNT_POINT, PAGES
from shim.plan import OnFailure, Plan
from shim.snapshot import IMAGES, ROOTFS, SHM, Manifest

_NEEDED = ("inventory.img", "pstree.img", "files.img")
_TMPFS = "tmpfs.json"
_MOUNTPOINTS = re.compile(r"mountpoints-\d+\.img")
_UTSNS = re.compile(r"utsns-\d+\.img")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

CRIU_CONF = """\
# Written by Podthaw for one restore. runc names this file to CRIU, which then reads no other
# such file: an option of /etc/criu/runc.conf could close connections that are to be kept.
tcp-established
file-locks
ext-unix-sk
"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The container that is to be restored, as kubelet asks for it."""

    namespace: str
    pod: str
    pod_uid: str
    sandbox_id: str
    container: str
    attempt: int
    hostname: str
    """The pod's host name; empty when it has the node's."""
    addresses: Sequence[str]
    """The pod's IP addresses; empty when it has the node's."""


@dataclass(frozen=True, kw_only=True)
class GpuMatch:
    """The GPUs of a snapshot with those of this host."""

    pairs: Mapping[str, str]
    """UUID at capture, in order → UUID of the container's, empty where its request does not tell.
    """
    nodes: Mapping[str, str]
    """N of each /dev/nvidiaN of this host → UUID."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How it is to be restored."""

    tcp: Literal["close", "established"]
    on_failure: OnFailure
    restore_timeout: float
    """Seconds."""
    runtime: str
    criu: str
    cuda: str = DRIVER
    after_restore: hooks.Hook | None = None


def prepare(
    plan_id: str,
    target: Target,
    policy: Policy,
    *,
    name: str,
    digest: str,
    folder: Path,
    manifest: Manifest,
    gpus: GpuMatch | None = None,
    run: str | Path = plan.DEFAULT_RUN,
) -> tuple[Plan, rewrite.Sockets]:
    """Fill the directory of a plan, which must exist; the plan, and what became of its sockets.

    Raises Broken when the snapshot's images are damaged, Unfit when they cannot be used for this
    pod or the directory cannot be written.
    """
    place = Path(plan.plan_dir(plan_id, run))
    try:
        sockets = _images(folder / IMAGES, place / IMAGES, target, policy, manifest)
        contents = _take_out_tmpfs(place / IMAGES)
        (place / "criu.conf").write_text(CRIU_CONF)
        order = Plan(
            id=plan_id,
            created=time.time(),
            namespace=target.namespace,
            pod=target.pod,
            pod_uid=target.pod_uid,
            sandbox_id=target.sandbox_id,
            container=target.container,
            attempt=target.attempt,
            name=name,
            snapshot=digest,
            snapshot_dir=str(folder),
            images=str(place / IMAGES),
            rootfs_diff=_artifact(folder, manifest, ROOTFS),
            shm=_artifact(folder, manifest, SHM),
            tmpfs=str(place / _TMPFS) if contents else None,
            pages_mount=_pages_mount(folder, manifest),
            cuda="" if gpus is None else policy.cuda,
            gpu_map={} if gpus is None else dict(gpus.pairs),
            gpus={} if gpus is None else dict(gpus.nodes),
            own_ipc=ipc.has_objects(one.path.rpartition("/")[2] for one in manifest.artifacts),
            tcp=policy.tcp,
            on_failure=policy.on_failure,
            restore_timeout=policy.restore_timeout,
            after_restore=str(policy.after_restore or ""),
            address=next(iter(_usable(target.addresses)), hooks.HOST),
            runtime=policy.runtime,
            criu=policy.criu,
        )
        plan.write(order, run)
    except OSError as error:
        if error.errno in _FULL:
            raise Unfit(f"the run directory {run} is full") from error
        raise Unfit(f"the plan cannot be written: {error.filename}: {error.strerror}") from error
    return order, sockets


def _images(
    source: Path, place: Path, target: Target, policy: Policy, manifest: Manifest
) -> rewrite.Sockets:
    names = [one.path.removeprefix(f"{IMAGES}/") for one in manifest.artifacts]
    names = [name for name, one in zip(names, manifest.artifacts, strict=True) if name != one.path]
    for name in _NEEDED:
        if name not in names:
            raise Broken(f"the snapshot has no {name}, so it is no dump of CRIU's")
    told = rewrite.Sockets()

    def files(data: bytes) -> bytes:
        nonlocal told
        new, told = rewrite.files(
            data, old=_usable(manifest.addresses), new=_usable(target.addresses), tcp=policy.tcp
        )
        return new

    place.mkdir(mode=0o700)
    for name in names:
        if "/" in name:
            raise Broken(f"the snapshot has an image in a folder, {name}, where CRIU reads none")
        change = _change(name, target, files)
        if change is None:
            _link(source / name, place / name)
        else:
            _rewrite(source / name, place / name, change)
    return told


def _take_out_tmpfs(place: Path) -> list[tmpfs.Content]:
    """Take small memory file systems out of the prepared images; the shim makes them.

    Their contents are written beside the images. Not in a user namespace, whose own numbers of
    users they have.
    """
    names = [path for path in place.iterdir() if _MOUNTPOINTS.fullmatch(path.name)]
    if len(names) != 1 or any(place.glob("userns-*.img")):
        return []
    path = names[0]
    data = path.read_bytes()
    archives = {}
    for device in tmpfs.devices(data, path.name):
        with suppress(FileNotFoundError), (place / tmpfs.image_of(device)).open("rb") as file:
            archives[device] = file.read(tmpfs.MOST_PACKED + 1)
    new, contents = tmpfs.take_out(data, path.name, archives)
    if contents:
        path.unlink()  # a link into the store
        path.write_bytes(new)
        path.chmod(0o600)
        told = [
            {**vars(one), "entries": [vars(entry) for entry in one.entries]} for one in contents
        ]
        (place.parent / _TMPFS).write_text(json.dumps(told))
    return contents


def _change(
    name: str, target: Target, files: Callable[[bytes], bytes]
) -> Callable[[bytes], bytes] | None:
    """How an image is changed for this pod; None when it is not."""
    if name == "files.img":
        return files
    if name == "inventory.img":
        return rewrite.inventory
    if _UTSNS.fullmatch(name) and target.hostname:
        return lambda data: rewrite.utsns(data, target.hostname, name)
    return None


def _rewrite(source: Path, place: Path, change: Callable[[bytes], bytes]) -> None:
    """Write the changed image, or a link to it when it stays as it is."""
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        data = file.read()
    new = change(data)
    if new == data:
        _link(source, place)
    else:
        place.write_bytes(new)
        place.chmod(0o600)


def _link(source: Path, place: Path) -> None:
    """Link to an image by a relative path.

    CRIU opens images after its first process has made the container's root its own, where an
    absolute path would be looked up; a relative one starts at the folder, which is the host's.
    """
    place.symlink_to(os.path.relpath(source.resolve(), place.parent.resolve()))


def _artifact(folder: Path, manifest: Manifest, name: str) -> str | None:
    return str(folder / name) if any(one.path == name for one in manifest.artifacts) else None


def _pages_mount(folder: Path, manifest: Manifest) -> dict[str, str] | None:
    source = _artifact(folder, manifest, PAGES)
    return None if source is None else {"source": source, "destination": MOUNT_POINT}


def _usable(addresses: Sequence[str]) -> list[str]:
    """The texts that are addresses: a container runtime may report an empty one."""
    good = []
    for text in addresses:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            continue
        good.append(text)
    return good
