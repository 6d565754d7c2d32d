"""GPUs that are none: a driver with NVIDIA's checkpoint calls, NVML, and a program that uses it.

What they do is told in fakecuda.c. They are compiled when first needed; a machine without a C
compiler skips the tests that want them.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.node import cache

FOLDER = Path(__file__).parent
HOME = "/run/fakegpu"
MODEL = "NVIDIA Fake 100"
DEVICES = ((10, 229), (10, 237), (10, 235))
"""Major and minor number of /dev/nvidia0 and the next ones: fuse, loop-control, autofs. CRIU does
not dump a process that has one of them open, as it does not dump one with a GPU."""


@dataclass(frozen=True)
class Gpu:
    """A line of the file gpus."""

    number: int
    memory: int = 1024
    """MiB."""
    free: int = 1000
    model: str = MODEL

    @property
    def uuid(self) -> str:
        """In NVML's form."""
        return f"GPU-{self.number:08x}-0000-4000-8000-00000000fa4e"

    def __str__(self) -> str:
        return f"{self.uuid} {self.number} {self.memory} {self.free} {self.model}\n"


def driver(*, old: bool = False) -> Path:
    """libcuda.so.1; ``old`` is one without the calls for checkpoints."""
    more = ["-DOLD_DRIVER", "-Wno-unused-function"] if old else []
    return _build("libcuda", ["fakecuda.c"], ["-shared", "-fPIC", "-fvisibility=hidden", *more])


def nvml() -> Path:
    """libnvidia-ml.so.1."""
    return _build("libnvidia-ml", ["fakenvml.c"], ["-shared", "-fPIC"])


def program() -> Path:
    """The program, static, with the driver inside."""
    return _build("program", ["program.c", "fakecuda.c"], ["-static"])


def checkpoint() -> Path:
    """The program cuda-checkpoint, static, with the driver inside."""
    return _build("checkpoint", ["checkpoint.c", "fakecuda.c"], ["-static"])


def _build(name: str, sources: Sequence[str], options: Sequence[str]) -> Path:
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", *options]
    paths = [FOLDER / source for source in sources]
    key = cache.key(*sorted(FOLDER.glob("*.[ch]")), platform.machine(), *command)

    def build(target: Path) -> None:
        subprocess.run([*command, *map(str, paths), "-o", str(target)], check=True)

    return cache.once(f"fakegpu-{name}-{key}", build)
