"""The machine's GPU driver, for the node and for containers: a CDI specification of what is there.

A machine may have the driver's libraries in /usr, or mounted at a place of their own
(/usr/local/nvidia). Containers of these tests see the machine's /usr, so only a place of its own
and the device nodes must be injected. Standard library only.

The format: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

KIND = "nvidia.com/gpu"
LIBRARIES = ("/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
"""Where a driver's libcuda.so.1 can be."""

HOOK = Path("/usr/bin/nvidia-cdi-hook")
"""NVIDIA's program for hooks."""

LINKS = "usr/local/lib/podthaw-gpu"
"""Folder of the node with links to the driver's libraries: the rest of what lies beside them on the
machine, its own C library above all, must not come in the way of the node's."""

_DRIVER = ("libcuda.so*", "libcudadebugger.so*", "libnvidia-*.so*")
_CONTROL = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")


def libraries(places: Iterable[str] = LIBRARIES) -> Path | None:
    """The folder with the driver's libraries; None: there is no driver."""
    for place in places:
        found = Path(place, "libcuda.so.1")
        if found.exists():
            return found.resolve().parent
    return None


def mount_point(folder: Path) -> Path | None:
    """The mount point below which a folder lies, if it is no part of the root file system."""
    for place in (folder, *folder.parents):
        if os.path.ismount(place):
            return place if place != Path("/") else None
    return None


def places() -> list[str]:
    """What must be mounted at its own place to have the driver's libraries."""
    folder = libraries()
    found = mount_point(folder) if folder else None
    return [str(found)] if found else []


def link_driver(tree: Path) -> None:
    """Let the node's dynamic linker find the driver: links, and a line for ldconfig."""
    folder = libraries()
    if folder is None:
        return
    seen = folder if mount_point(folder) else Path("/host") / folder.relative_to("/")
    links = tree / LINKS
    links.mkdir(parents=True)
    for pattern in _DRIVER:
        for library in folder.glob(pattern):
            (links / library.name).symlink_to(seen / library.name)
    program = folder.parent / "bin/nvidia-smi"
    if mount_point(folder) and program.exists():  # NVIDIA's runtime takes it from PATH
        (tree / "usr/bin/nvidia-smi").symlink_to(program)
    (tree / "etc/ld.so.conf.d/podthaw-gpu.conf").write_text(f"/{LINKS}\n")


def specification(devices: Path = Path("/dev"), hook: Path = HOOK) -> dict[str, Any]:
    """The specification of every GPU of this machine."""
    numbers = sorted(
        int(path.name.removeprefix("nvidia"))
        for path in devices.glob("nvidia[0-9]*")
        if path.name.removeprefix("nvidia").isdigit()
    )
    nodes = {number: {"path": f"{devices}/nvidia{number}"} for number in numbers}
    entries = [_device(str(number), [node]) for number, node in nodes.items()]
    entries.append(_device("all", list(nodes.values())))
    control = [{"path": f"{devices}/{name}"} for name in _CONTROL if (devices / name).exists()]
    edits: dict[str, Any] = {"deviceNodes": control}
    folder = libraries()
    if folder is not None:
        edits["env"] = [f"LD_LIBRARY_PATH={folder}"]
    edits["mounts"] = [
        {"hostPath": place, "containerPath": place, "options": ["ro", "nosuid", "nodev", "bind"]}
        for place in places()
    ]
    if hook.exists():  # in the node: those of nvidia-ctk's that fit an image without libraries
        cache = [] if folder is None else [_hook(hook, "update-ldcache", "--folder", str(folder))]
        edits["hooks"] = [_hook(hook, "disable-device-node-modification"), *cache]
    return {"cdiVersion": "0.6.0", "kind": KIND, "devices": entries, "containerEdits": edits}


def _hook(program: Path, *arguments: str) -> dict[str, Any]:
    """A hook that runs before the container's root is its root."""
    command = [program.name, *arguments]
    return {"hookName": "createContainer", "path": str(program), "args": command}


def _device(name: str, nodes: list[dict[str, str]]) -> dict[str, Any]:
    return {"name": name, "containerEdits": {"deviceNodes": nodes}}
