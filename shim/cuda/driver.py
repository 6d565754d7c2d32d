"""The driver's checkpoint API in libcuda.so.1, by ctypes.

The structures are those of cuda.h 12.8 to 13.4: 64 bytes each, in which what a version does not
know must be zero.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

from shim.cuda import uuids
from shim.cuda.calls import (
    NOT_INITIALIZED,
    OPERATING_SYSTEM,
    DriverError,
    State,
    too_old,
)
from shim.errors import Unfit

LIBRARY = "libcuda.so.1"

_PLACES = (
    "/run/nvidia/driver/usr/lib/x86_64-linux-gnu",  # where the GPU operator mounts its driver
    "/run/nvidia/driver/usr/lib64",
    "/usr/local/nvidia/lib64",
    "/home/kubernetes/bin/nvidia/lib64",
)
"""Where the library lies when the dynamic linker does not find it."""

_MAPS = 13000
"""CUDA 13.0, driver 580: from here on a restore takes a map of GPUs."""


class _LockArgs(ctypes.Structure):
    _fields_ = (
        ("timeoutMs", ctypes.c_uint),
        ("reserved", ctypes.c_ubyte * 60),
    )


class _NoArgs(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_ubyte * 64),)


class _GpuPair(ctypes.Structure):
    _fields_ = (("old", ctypes.c_ubyte * 16), ("new", ctypes.c_ubyte * 16))


class _RestoreArgs(ctypes.Structure):
    _fields_ = (
        ("gpuPairs", ctypes.POINTER(_GpuPair)),
        ("gpuPairsCount", ctypes.c_uint),
        ("reserved", ctypes.c_ubyte * 52),
    )


class Driver:
    """One loaded libcuda.so.1; its calls may come from several threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Look up the entry points; Unfit when the driver is too old to have them."""
        self._library = library
        self.version = self._version()
        """Newest CUDA that the driver serves, e.g. 13000 for 13.0."""
        try:
            self._state = library.cuCheckpointProcessGetState
            self._lock = library.cuCheckpointProcessLock
            self._checkpoint = library.cuCheckpointProcessCheckpoint
            self._restore = library.cuCheckpointProcessRestore
            self._unlock = library.cuCheckpointProcessUnlock
        except AttributeError:
            raise too_old(self.version) from None

    @classmethod
    def load(cls) -> Driver:
        """Load the driver's library of this host; Unfit when there is none."""
        library = _open()
        if library is None:
            raise Unfit(f"this host has no NVIDIA driver: {LIBRARY} is not there")
        return cls(library)

    def initialize(self) -> None:
        """cuInit: a restore needs it (or persistence mode)."""
        self._check("init", self._library.cuInit(0))

    def state(self, pid: int) -> State | None:
        """State of a process; None when it does not use CUDA or is gone."""
        found = ctypes.c_int(-1)
        code = self._state(ctypes.c_int(pid), ctypes.byref(found))
        if code in (NOT_INITIALIZED, OPERATING_SYSTEM):
            return None
        self._check("state", code)
        try:
            return State(found.value)
        except ValueError:
            raise DriverError("state", -1, "", f"an unknown state, {found.value}") from None

    def lock(self, pid: int, seconds: float) -> None:
        """cuCheckpointProcessLock, which counts milliseconds; 0 would mean no timeout."""
        arguments = _LockArgs(timeoutMs=max(1, int(seconds * 1000)))
        self._check("lock", self._lock(ctypes.c_int(pid), ctypes.byref(arguments)))

    def checkpoint(self, pid: int) -> None:
        """Call cuCheckpointProcessCheckpoint."""
        self._check("checkpoint", self._checkpoint(ctypes.c_int(pid), ctypes.byref(_NoArgs())))

    def restore(self, pid: int, gpu_map: Mapping[str, str]) -> None:
        """cuCheckpointProcessRestore; a map that changes nothing is left out on old drivers."""
        arguments = _RestoreArgs()
        pairs = (_GpuPair * len(gpu_map))()
        for pair, (old, new) in zip(pairs, gpu_map.items(), strict=True):
            pair.old[:] = uuids.to_bytes(old)
            pair.new[:] = uuids.to_bytes(new)
        if self.version >= _MAPS and gpu_map:
            arguments.gpuPairs, arguments.gpuPairsCount = pairs, len(pairs)
        elif any(old != new for old, new in gpu_map.items()):
            raise DriverError(
                "restore", -1, "", "another GPU than before needs driver 580 (CUDA 13.0) or newer"
            )
        self._check("restore", self._restore(ctypes.c_int(pid), ctypes.byref(arguments)))

    def unlock(self, pid: int) -> None:
        """Call cuCheckpointProcessUnlock."""
        self._check("unlock", self._unlock(ctypes.c_int(pid), ctypes.byref(_NoArgs())))

    def _version(self) -> int:
        found = ctypes.c_int(0)
        try:
            self._library.cuDriverGetVersion(ctypes.byref(found))
        except AttributeError:
            return 0
        return found.value

    def _check(self, call: str, code: int) -> None:
        if code:
            raise DriverError(
                call,
                code,
                self._text(self._library.cuGetErrorName, code) or f"CUresult {code}",
                self._text(self._library.cuGetErrorString, code) or "unknown error",
            )

    @staticmethod
    def _text(function: ctypes._NamedFuncPointer, code: int) -> str:
        text = ctypes.c_char_p()
        function(ctypes.c_int(code), ctypes.byref(text))
        return (text.value or b"").decode(errors="replace")


def present() -> bool:
    """Whether this host has an NVIDIA driver's library; loads it when the linker finds it."""
    return _open() is not None


def _open() -> ctypes.CDLL | None:
    for name in (LIBRARY, *(f"{place}/{LIBRARY}" for place in _PLACES)):
        if "/" in name and not os.path.exists(name):
            continue
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
