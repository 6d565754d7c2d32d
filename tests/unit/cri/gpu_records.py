"""GPUs for tests: what a manifest records, and what NVML would tell."""

from __future__ import annotations

from typing import Any

from cri.gpus import Gpu

GIB = 1 << 30


def gpu(number: int = 0, **other: Any) -> Gpu:
    """A GPU as NVML tells of it; ``other`` are fields that differ."""
    values: dict[str, Any] = {
        "uuid": f"GPU-{number:08x}-0000-4000-8000-000000000000",
        "number": number,
        "model": "NVIDIA H100",
        "memory": 80 * GIB,
        "free": 79 * GIB,
        "capability": "9.0",
        "driver": "580.159.04",
        "ecc": "on",
        "mig": "off",
        "used": 0,
    }
    return Gpu(**{**values, **other})
