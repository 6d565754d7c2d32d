"""The GPUs of this host, through NVIDIA's management library NVML."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

from shim.errors import Broken

log = logging.getLogger("podthaw.gpus")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU; also what a snapshot's manifest records of each GPU that its container had."""

    uuid: str
    number: int
    """N of /dev/nvidiaN: the minor device number."""
    model: str
    memory: int
    """Bytes in all."""
    free: int
    """Bytes that nobody uses."""
    capability: str
    """Compute capability, e.g. ``9.0``."""
    driver: str
    """Version of the driver, e.g. ``580.159.04``."""
    ecc: str
    """Error correction of its memory: ``on``, ``off``, or ``none`` where it has no such mode."""
    mig: str
    """Partitioning into instances (MIG): ``on``, ``off`` or ``none``."""
    used: int = 0
    """Bytes that the container's processes use; 0 where the driver does not tell."""


def read() -> list[Gpu]:
    """Every GPU, in NVML's order; none without NVML, a driver, or a GPU."""
    with _nvml() as nvml:
        return [] if nvml is None else list(_each(nvml, lambda gpu, _: gpu))


def of_container(numbers: Sequence[int], pids: Sequence[int]) -> list[Gpu]:
    """The GPUs with these numbers, in this order, with what the processes use of each.

    One that NVML does not know is left out.
    """

    def with_use(gpu: Gpu, use: Mapping[int, int]) -> Gpu:
        return Gpu(**{**asdict(gpu), "used": sum(use.get(pid, 0) for pid in pids)})

    with _nvml() as nvml:
        found = {} if nvml is None else {gpu.number: gpu for gpu in _each(nvml, with_use)}
    return [found[number] for number in numbers if number in found]


def recorded(raw: Mapping[str, Any]) -> Gpu:
    """A GPU of a snapshot's manifest; Broken when it is not one."""
    known = {one.name: one.type for one in fields(Gpu)}
    kinds = {"str": str, "int": int}
    try:
        gpu = Gpu(**{key: value for key, value in raw.items() if key in known})
    except TypeError as error:
        raise Broken(f"the snapshot's manifest has a GPU that cannot be read: {error}") from error
    for name, kind in known.items():
        if type(getattr(gpu, name)) is not kinds[str(kind)]:
            raise Broken(f"the snapshot's manifest has a GPU with {name} {getattr(gpu, name)!r}")
    return gpu


@contextmanager
def _nvml() -> Iterator[Any]:
    """The initialized module pynvml, or None where there is nothing to ask."""
    try:
        import pynvml  # noqa: PLC0415 - only nodes with GPUs need it
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("NVML cannot be used: %s", error)
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _each(nvml: Any, make: Callable[[Gpu, Mapping[int, int]], Gpu]) -> Iterator[Gpu]:  # noqa: ANN401
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    for index in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(device)
        gpu = Gpu(
            uuid=_text(nvml.nvmlDeviceGetUUID(device)),
            number=int(nvml.nvmlDeviceGetMinorNumber(device)),
            model=_text(nvml.nvmlDeviceGetName(device)),
            memory=int(memory.total),
            free=int(memory.free),
            capability=f"{major}.{minor}",
            driver=driver,
            ecc=_mode(nvml, nvml.nvmlDeviceGetEccMode, device),
            mig=_mode(nvml, nvml.nvmlDeviceGetMigMode, device),
        )
        yield make(gpu, _use(nvml, device))


def _use(nvml: Any, device: object) -> dict[int, int]:  # noqa: ANN401 - a module without types
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses_v3(device)
    except nvml.NVMLError:  # a driver older than 510
        return {}
    return {int(one.pid): int(one.usedGpuMemory or 0) for one in running}


def _mode(nvml: Any, ask: Callable[[object], Sequence[int]], device: object) -> str:  # noqa: ANN401
    try:
        return "on" if ask(device)[0] else "off"
    except nvml.NVMLError:
        return "none"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
