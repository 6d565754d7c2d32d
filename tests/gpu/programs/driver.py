"""Driver API alone: device memory, a stream and a captured graph whose result depends on all of it.

``driver.py MIB [PINNED_MIB]``: with the second number some of the memory comes anew at each step
from pinned host memory, which the host changes in between.
"""

from __future__ import annotations

import ctypes
import sys
import time
from ctypes import byref, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p

import cuda
import telling

WORD = 8
BLOCKS, THREADS = 2048, 256


def main() -> None:
    """Run for ever."""
    began = time.monotonic()
    telling.start()
    size = int(sys.argv[1]) << 20
    pinned = int(sys.argv[2]) << 20 if len(sys.argv) > 2 else 0
    cuda.start()
    kernels, queue = cuda.Kernels(), cuda.stream()
    memory, state = cuda.allocate(size), cuda.allocate(2 * WORD)
    count = c_uint64(size // WORD)
    cuda.call("cuMemsetD8_v2", state, ctypes.c_ubyte(7), c_size_t(2 * WORD))
    seed = c_uint64(20261124)
    kernels.launch("fill", queue, [memory, count, seed], blocks=BLOCKS, threads=THREADS)
    host = cuda.pinned(pinned) if pinned else None
    if host is not None:
        ctypes.memset(host, 0x5A, pinned)
    cuda.call("cuStreamSynchronize", queue)

    cuda.call("cuStreamBeginCapture_v2", queue, c_uint(1))
    if host is not None:
        cuda.call("cuMemcpyHtoDAsync_v2", memory, host, c_size_t(pinned), queue)
    arguments = [memory, count, state]
    kernels.launch("sum", queue, arguments, blocks=BLOCKS, threads=THREADS)
    kernels.launch("advance", queue, arguments, blocks=1, threads=1)
    graph, executable = c_void_p(), c_void_p()
    cuda.call("cuStreamEndCapture", queue, byref(graph))
    cuda.call("cuGraphInstantiateWithFlags", byref(executable), graph, c_ulonglong(0))

    telling.ready(seconds=time.monotonic() - began)
    number, result = 0, c_uint64()
    while True:
        number += 1
        cuda.call("cuGraphLaunch", executable, queue)
        cuda.call("cuStreamSynchronize", queue)
        cuda.call("cuMemcpyDtoH_v2", byref(result), state, c_size_t(WORD))
        if host is not None:
            place = number * 4096 % pinned
            host[place : place + WORD] = result.value.to_bytes(WORD, "little")
        telling.step(number, f"{result.value:016x}")


main()
