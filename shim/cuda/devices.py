"""GPU device nodes: those of an OCI spec, the map from old GPUs to new ones, the nodes themselves.

runc makes the nodes of a container once, in the tmpfs at its /dev. CRIU saves that tmpfs and
brings it back with the nodes of the snapshot, so after a restore the nodes of the request are put
in their place. What may be opened is the device control group's matter, which the runtime sets
from the request (runc: libcontainer/cgroups/devices).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from shim.errors import Unfit

_GPU = re.compile(r"/dev/nvidia(\d{1,3})")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

Spec = Mapping[str, Any]


def gpu_number(path: str) -> int | None:
    """N of /dev/nvidiaN, which is the GPU's minor number on its host; None for another path."""
    match = _GPU.fullmatch(path)
    return int(match[1]) if match else None


def gpu_numbers(spec: Spec) -> list[int]:
    """The GPUs whose device nodes the spec has, each once, in ascending order."""
    found = (gpu_number(str(node.get("path", ""))) for node in _nodes(spec))
    return sorted({number for number in found if number is not None})


def may_use_gpu(spec: Spec) -> bool:
    """Whether a container may have a GPU at all: else nothing of this package is needed."""
    if any(str(node.get("path", "")).startswith("/dev/nvidia") for node in _nodes(spec)):
        return True
    process = spec.get("process")
    environment = process.get("env") if isinstance(process, Mapping) else None
    for entry in environment or ():
        name, _, value = str(entry).partition("=")
        if name == "NVIDIA_VISIBLE_DEVICES" and value not in ("", "void", "none"):
            return True
    return False


def gpu_map(
    old: Sequence[str], spec: Spec, nodes: Mapping[str, str], wanted: Mapping[str, str]
) -> dict[str, str]:
    """UUID of each GPU of the snapshot → UUID of the container's, by their positions.

    ``old`` are the GPUs of the snapshot in order, ``nodes`` is the number of each GPU of this host
    → its UUID, ``wanted`` a map that was made from the request, which counts when it names the
    very GPUs that the finished spec has. Raises Unfit when the container has fewer GPUs or one
    that this host does not know.
    """
    new = []
    for number in gpu_numbers(spec):
        uuid = nodes.get(str(number))
        if uuid is None:
            raise Unfit(
                f"the container has the device /dev/nvidia{number}, and the NVIDIA driver of this "
                "host knows no such GPU"
            )
        new.append(uuid)
    if len(new) != len(old):
        raise Unfit(
            f"the snapshot wants {len(old)} GPU{'s' * (len(old) != 1)}, found {len(new)} in the "
            "container's OCI spec"
        )
    if set(wanted) == set(old) and sorted(wanted.values()) == sorted(new):
        return dict(wanted)
    return dict(zip(old, new, strict=True))


def place_nodes(root: str, spec: Spec) -> list[str]:
    """Make the device nodes of NVIDIA's driver below ``root`` as the spec has them.

    ``root`` is ``/proc/PID/root``. Nodes of GPUs that the spec lacks are removed. Processes of
    the container may already run, so every step is from an open folder and follows no link.
    Returns the paths that were changed. Raises Unfit when one cannot be made.
    """
    changed = []
    wanted = [node for node in _nodes(spec) if str(node.get("path", "")).startswith("/dev/nvidia")]
    for node in wanted:
        path = str(node["path"])
        try:
            if _place(root, path.split("/")[1:], node):
                changed.append(path)
        except OSError as error:
            raise Unfit(
                f"the device node {path} cannot be made in the restored container: {error.strerror}"
            ) from error
    changed += _remove_stale(root, {str(node["path"]) for node in wanted})
    return changed


def _remove_stale(root: str, wanted: Collection[str]) -> list[str]:
    removed = []
    with suppress(OSError), _folder(root, ["dev"], make=False) as folder:
        for entry in os.listdir(folder):
            path = f"/dev/{entry}"
            if gpu_number(path) is None or path in wanted:
                continue
            if stat.S_ISCHR(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(entry, dir_fd=folder)
                removed.append(path)
    return removed


def _place(root: str, parts: list[str], node: Mapping[str, Any]) -> bool:
    kind = _KINDS.get(str(node.get("type")))
    if kind is None or ".." in parts:
        raise Unfit(f"the OCI spec has a device of type {node.get('type')!r} at {node.get('path')}")
    device = os.makedev(int(node.get("major") or 0), int(node.get("minor") or 0))
    mode = int(node.get("fileMode") or 0o666) & 0o7777
    owner = int(node.get("uid") or 0), int(node.get("gid") or 0)
    with _folder(root, parts[:-1], make=True) as folder:
        name = parts[-1]
        try:
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        if there is not None:
            if stat.S_IFMT(there.st_mode) == kind and there.st_rdev == device:
                return False
            os.unlink(name, dir_fd=folder)
        os.mknod(name, mode | kind, device, dir_fd=folder)
        os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)
        # mknod's mode goes through the umask; nobody but us can have replaced the node by a link
        # between the two calls without being root in the container.
        made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.chmod(f"/proc/self/fd/{made}", mode)
        finally:
            os.close(made)
    return True


@contextmanager
def _folder(root: str, parts: list[str], *, make: bool) -> Iterator[int]:
    """An open folder below ``root``, reached without following a link."""
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
            inner = os.open(part, _FOLDER, dir_fd=current)
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


def _nodes(spec: Spec) -> list[Mapping[str, Any]]:
    linux = spec.get("linux")
    found = linux.get("devices") if isinstance(linux, Mapping) else None
    return [node for node in found or () if isinstance(node, Mapping)]
