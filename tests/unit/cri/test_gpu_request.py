from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from cri import gpu_request
from cri.proto import cri_pb2 as pb
from tests.unit.cri.gpu_records import gpu

# NVML's order is that of the bus, not that of the device numbers.
HERE = [gpu(2), gpu(0), gpu(1)]


def config(**fields: Any) -> pb.ContainerConfig:
    return json_format.ParseDict(fields, pb.ContainerConfig())


def env(value: str) -> dict[str, Any]:
    return {"envs": [{"key": "NVIDIA_VISIBLE_DEVICES", "value": value}]}


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        (env(gpu(1).uuid), [1]),
        (env(f"{gpu(2).uuid},{gpu(0).uuid}"), [0, 2]),
        (env(gpu(1).uuid[:12]), [1]),
        (env("0"), [2]),
        (env("1, 2"), [0, 1]),
        (env("all"), [0, 1, 2]),
        ({"CDI_devices": [{"name": "nvidia.com/gpu=1"}]}, [0]),
        ({"CDI_devices": [{"name": "nvidia.com/gpu=all"}]}, [0, 1, 2]),
        ({"CDI_devices": [{"name": f"k8s.device-plugin.nvidia.com/gpu={gpu(1).uuid}"}]}, [1]),
        ({"annotations": {"cdi.k8s.io/x": f"nvidia.com/gpu={gpu(0).uuid},other.com/nic=1"}}, [0]),
        (
            {
                "devices": [
                    {"container_path": "/dev/nvidia1", "host_path": "/dev/nvidia1"},
                    {"container_path": "/dev/nvidiactl", "host_path": "/dev/nvidiactl"},
                ]
            },
            [1],
        ),
        ({**env("void"), "CDI_devices": [{"name": "nvidia.com/gpu=0"}]}, [2]),
    ],
)
def test_what_is_asked_for(fields: dict[str, Any], numbers: list[int]) -> None:
    found = gpu_request.asked(config(**fields), HERE)
    assert found is not None
    assert [one.number for one in found] == numbers


@pytest.mark.parametrize(
    "fields",
    [
        {},
        env(""),
        env("void"),
        env("none"),
        env("GPU-"),
        env("7"),
        env("MIG-1"),
        {"CDI_devices": [{"name": "k8s.gpu.nvidia.com/claim=0a1b-gpu-0"}]},
        {"CDI_devices": [{"name": "nvidia.com/gpu=gpu-7"}]},
        {"CDI_devices": [{"name": "evil.com/gpu=0"}]},
        {"devices": [{"container_path": "/dev/fuse", "host_path": "/dev/nvidia0"}]},
    ],
)
def test_what_the_request_does_not_tell(fields: dict[str, Any]) -> None:
    assert gpu_request.asked(config(**fields), HERE) is None


def test_the_last_variable_counts() -> None:
    both = {"envs": [*env("0")["envs"], *env("1")["envs"]]}
    assert gpu_request.asked(config(**both), HERE) == [gpu(0)]
