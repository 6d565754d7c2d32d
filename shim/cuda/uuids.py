"""UUIDs of GPUs: ``GPU-2ee1d4ae-2dc1-68e0-d3a5-62db08634ea6`` and their 16 bytes."""

from __future__ import annotations

import re
import uuid

from shim.errors import Unfit

_FORM = re.compile(r"GPU-([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})")


def is_gpu(text: str) -> bool:
    """Whether it is the UUID of a GPU, in NVML's form."""
    return _FORM.fullmatch(text) is not None


def to_bytes(text: str) -> bytes:
    """The 16 bytes of a GPU's UUID in NVML's form; Unfit for anything else."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise Unfit(f"{text[:80]!r} is not the UUID of a GPU, wanted GPU-xxxxxxxx-xxxx-…")
    return uuid.UUID(match[1]).bytes
