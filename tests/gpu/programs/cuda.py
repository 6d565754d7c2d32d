"""The few calls of the CUDA driver API that the programs use, by ctypes."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path

KERNELS = Path(__file__).with_name("kernels.ptx")

_lib = ctypes.CDLL("libcuda.so.1")


class CudaError(Exception):
    """A driver call failed."""


def call(name: str, *arguments: object) -> None:
    """Call a function of the driver by its name; CudaError when it fails."""
    status = getattr(_lib, name)(*arguments)
    if status:
        text = c_char_p()
        _lib.cuGetErrorName(status, byref(text))
        raise CudaError(f"{name}: {text.value.decode() if text.value else status}")


def start() -> None:
    """Make this process one of the GPU's: the primary context of device 0."""
    device, context = c_int(), c_void_p()
    call("cuInit", c_uint(0))
    call("cuDeviceGet", byref(device), c_int(0))
    call("cuDevicePrimaryCtxRetain", byref(context), device)
    call("cuCtxSetCurrent", context)


def allocate(size: int) -> c_uint64:
    """Device memory of some bytes."""
    address = c_uint64()
    call("cuMemAlloc_v2", byref(address), c_size_t(size))
    return address


def pinned(size: int) -> ctypes.Array[ctypes.c_char]:
    """Host memory that the device can read."""
    address = c_void_p()
    call("cuMemHostAlloc", byref(address), c_size_t(size), c_uint(0))
    assert address.value is not None
    return (ctypes.c_char * size).from_address(address.value)


def stream() -> c_void_p:
    """A stream that does not wait for the default one."""
    made = c_void_p()
    call("cuStreamCreate", byref(made), c_uint(1))
    return made


class Kernels:
    """The kernels of kernels.ptx, made for this GPU."""

    def __init__(self) -> None:
        module = c_void_p()
        call("cuModuleLoadData", byref(module), c_char_p(KERNELS.read_bytes()))
        self._module = module

    def launch(
        self, name: str, queue: c_void_p, arguments: list[c_uint64], *, blocks: int, threads: int
    ) -> None:
        """Put a kernel into a stream."""
        function = c_void_p()
        call("cuModuleGetFunction", byref(function), self._module, c_char_p(name.encode()))
        pointers = (c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        sizes = [c_uint(blocks), c_uint(1), c_uint(1), c_uint(threads), c_uint(1), c_uint(1)]
        call("cuLaunchKernel", function, *sizes, c_uint(0), queue, pointers, None)
