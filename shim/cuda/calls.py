"""What a driver can be asked about a process, whoever passes the question on."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Protocol

from shim.errors import Unfit


class State(IntEnum):
    """State of a process that uses CUDA (cuda.h: CUprocessState)."""

    RUNNING = 0
    LOCKED = 1
    """Its calls of CUDA block, and what it had given to the GPU is done."""
    CHECKPOINTED = 2
    """Its device memory is in its ordinary memory, and no device is open."""
    FAILED = 3
    """It is lost: the driver gave up on it."""
    CHECKPOINTING = 4
    """On the way; from CUDA 13.4 on."""
    RESTORING = 5


class DriverError(Exception):
    """The driver refused a call."""

    def __init__(self, call: str, code: int, name: str, text: str) -> None:
        super().__init__(f"{call}: {name}: {text}")
        self.call = call
        """``lock``, ``checkpoint``, ``restore``, ``unlock``, ``state`` or ``init``."""
        self.code = code
        """CUresult (cuda.h); -1 where only words are known."""
        self.name = name
        """E.g. ``CUDA_ERROR_NOT_SUPPORTED``."""
        self.text = text


class Calls(Protocol):
    """A driver. Each call blocks until the driver has answered, and raises DriverError."""

    def initialize(self) -> None:
        """What must be done once before a restore; takes 10 ms to some seconds."""

    def state(self, pid: int) -> State | None:
        """State of a process; None when it does not use CUDA or is gone."""

    def lock(self, pid: int, seconds: float) -> None:
        """Let what is on the GPU finish, and block further calls; given up after that time."""

    def checkpoint(self, pid: int) -> None:
        """Move a locked process's device memory into its ordinary memory."""

    def restore(self, pid: int, gpu_map: Mapping[str, str]) -> None:
        """Move it back; ``gpu_map`` from each GPU's UUID at the checkpoint to the new one's.

        An empty map means the same GPUs. The process is locked afterwards.
        """

    def unlock(self, pid: int) -> None:
        """Let a locked process run on."""


INVALID_VALUE = 1
OUT_OF_MEMORY = 2
NOT_INITIALIZED = 3
OPERATING_SYSTEM = 304
ILLEGAL_STATE = 401
NOT_READY = 600
NOT_SUPPORTED = 801
"""CUresult (cuda.h)."""

_ALWAYS = {
    35: "the driver is older than its library libcuda.so.1 wants",
    46: "the GPU is used by another process alone, or is not available",
    100: "the driver finds no GPU",
    304: "the operating system refuses it; the process may have ended, or a device is missing",
    401: "the process is not in the state for it: another program handles it at the same time",
    802: "the GPUs are not ready yet (on machines with NVSwitch, the fabric manager must run)",
    803: "the driver and its library libcuda.so.1 are of different versions",
    804: "this GPU does not support it",
    805: "it is a client of the Multi-Process Service (MPS), which has no checkpoint",
    999: "the driver does not say why",
}
_MEANING = {
    ("lock", NOT_READY): "its work on the GPU did not come to an end in time",
    ("lock", NOT_SUPPORTED): "this kind of GPU use (MIG, MPS) has no checkpoint",
    ("checkpoint", NOT_SUPPORTED): "it uses what the driver cannot checkpoint: managed memory "
    "(cudaMallocManaged), memory shared between processes (CUDA IPC, below driver 610), MIG or MPS",
    ("checkpoint", OUT_OF_MEMORY): "its device memory does not fit into the memory of the "
    "container or node",
    ("restore", INVALID_VALUE): "the GPUs do not match: each GPU of the snapshot needs one of the "
    "same model",
    ("restore", OUT_OF_MEMORY): "the GPU has too little free memory",
    ("restore", NOT_SUPPORTED): "another GPU than before needs driver 580 or newer and the same "
    "model",
}


def in_words(error: DriverError) -> str:
    """What a refusal means, with the driver's own words at the end."""
    meaning = _MEANING.get((error.call, error.code)) or _ALWAYS.get(error.code)
    own = f"{error.name}: {error.text}" if error.name else error.text
    return f"{meaning} ({own})" if meaning else own


TOO_OLD = (
    "the NVIDIA driver is too old: wanted 570 or newer, which can checkpoint a process, "
    "found one for CUDA {found}"
)


def too_old(version: int) -> Unfit:
    """The error of a driver without cuCheckpointProcess*; ``version`` as cuDriverGetVersion."""
    return Unfit(TOO_OLD.format(found=f"{version // 1000}.{version % 1000 // 10}"))
