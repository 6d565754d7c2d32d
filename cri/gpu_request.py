"""Which GPUs a container asks for, as far as its CreateContainer request tells.

A device plugin names them by the variable NVIDIA_VISIBLE_DEVICES, by device nodes, or by CDI
names; dynamic resource allocation by CDI names that only its own specification explains. What
counts in the end is the finished OCI spec, which the runtime wrapper sees.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cri.gpus import Gpu
from cri.proto import cri_pb2 as pb
from shim.cuda.devices import gpu_number

_CDI_ANNOTATION = "cdi.k8s.io/"
_CDI_GPU = re.compile(r"(?:[\w.-]+\.)?nvidia\.com/gpu=(.+)")
_NOTHING = ("", "void", "none")


def asked(config: pb.ContainerConfig, gpus: Sequence[Gpu]) -> list[Gpu] | None:
    """The GPUs of a request, in the order of their numbers; None when it does not tell them all."""
    names = _names(config)
    if not names:
        return None
    found: dict[str, Gpu] = {}
    for name in names:
        matching = list(gpus) if name == "all" else [gpu for gpu in gpus if _is(gpu, name, gpus)]
        if not matching:
            return None
        found |= {gpu.uuid: gpu for gpu in matching}
    return sorted(found.values(), key=lambda gpu: gpu.number)


def _names(config: pb.ContainerConfig) -> list[str]:
    cdi = [device.name for device in config.CDI_devices]
    for key, value in config.annotations.items():
        if key.startswith(_CDI_ANNOTATION):
            cdi += value.split(",")
    names = [match[1] for name in cdi if (match := _CDI_GPU.fullmatch(name.strip()))]
    if names:
        return names
    nodes = [gpu_number(device.container_path) for device in config.devices]
    names = [f"/dev/nvidia{number}" for number in nodes if number is not None]
    if names:
        return names
    variables = [one.value for one in config.envs if one.key == "NVIDIA_VISIBLE_DEVICES"]
    last = variables[-1] if variables else ""
    return [] if last in _NOTHING else [name.strip() for name in last.split(",")]


def _is(gpu: Gpu, name: str, gpus: Sequence[Gpu]) -> bool:
    if name.isdecimal():
        return int(name) < len(gpus) and gpus[int(name)] == gpu
    return name == f"/dev/nvidia{gpu.number}" or (
        # A UUID may be cut, as nvidia-smi takes it.
        name.startswith("GPU-") and len(name) > len("GPU-") and gpu.uuid.startswith(name)
    )
