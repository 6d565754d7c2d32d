"""The driver's calls made by the test itself, one process after another: the stock way.

cuda-checkpoint and CRIU's plugin do so; the same calls, in place, are the floor that a restore is
measured against.
"""

from __future__ import annotations

import time
from pathlib import Path

from shim.cuda.driver import Driver
from tests.gpu.daemons import CGROUP


def members(container: str) -> list[int]:
    """Processes of a container, by its cgroup."""
    for procs in Path("/sys/fs/cgroup").glob(f"**/{CGROUP}/*/{container}/cgroup.procs"):
        return [int(line) for line in procs.read_text().split()]
    return []


class Suspender:
    """The driver, loaded in this process."""

    def __init__(self) -> None:
        self._driver = Driver.load()
        self._driver.initialize()

    def users(self, pids: list[int]) -> list[int]:
        """Those that use CUDA."""
        return [pid for pid in pids if self._driver.state(pid) is not None]

    def suspend(self, pids: list[int]) -> dict[str, float]:
        """Lock and checkpoint; seconds of each."""
        begun = time.monotonic()
        for pid in pids:
            self._driver.lock(pid, 10)
        locked = time.monotonic()
        for pid in pids:
            self._driver.checkpoint(pid)
        return {"lock": locked - begun, "checkpoint": time.monotonic() - locked}

    def resume(self, pids: list[int]) -> dict[str, float]:
        """Restore and unlock; seconds of each."""
        begun = time.monotonic()
        for pid in pids:
            self._driver.restore(pid, {})
        restored = time.monotonic()
        for pid in pids:
            self._driver.unlock(pid)
        return {"restore": restored - begun, "unlock": time.monotonic() - restored}
