"""GPU state: processes that use CUDA are checkpointed and restored through NVIDIA's driver.

The driver moves the device memory of a process into ordinary memory of that process and closes
its devices, and CRIU can then save it like any other. Each process has a state, and the calls of
the driver's public API (``cuCheckpointProcess*``, CUDA 12.8 and newer) lead from one to the next:

    running ──lock──▶ locked ──checkpoint──▶ checkpointed ──restore──▶ locked ──unlock──▶ running

The parts, from the bottom:

    calls       what a driver can be asked, and what it answers when it refuses
    driver      … through libcuda.so.1          program   … through the program cuda-checkpoint
    service     a process of its own that makes the calls, so that a stuck one cannot hold us up
    helper      the caller's side of it
    session     all processes of a container: suspend, resume, bring back after a failure
    processes   which processes of a container use CUDA
    devices     GPU device nodes of an OCI spec, and the map from the old GPUs to the new ones

Measured on driver 580 (H100): the state is told without cuInit, in 0.3 ms; a process without CUDA
answers CUDA_ERROR_NOT_INITIALIZED; managed memory makes the checkpoint (not the lock) answer
CUDA_ERROR_NOT_SUPPORTED and leaves the process locked; a wrong GPU map is CUDA_ERROR_INVALID_VALUE
and leaves it checkpointed; the lock of a stopped process hangs whatever its timeout is.
"""

DRIVER = "driver"
"""Value of the setting ``cuda``: the driver's own API; else the path of cuda-checkpoint."""

FILE = "cuda.json"
"""Beside CRIU's images when processes were checkpointed: ``{"processes": [7]}``, their ids inside
the container."""
