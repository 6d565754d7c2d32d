"""The GPU's part of one dump: suspended before CRIU begins, resumed when it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from shim import procfs
from shim.container import ContainerRef
from shim.cuda import FILE, devices, session
from shim.cuda.calls import State
from shim.cuda.helper import Helper
from shim.errors import Unfit


class GpuDump:
    """Loads nothing and does nothing for a container that cannot have a GPU."""

    def __init__(self, container: ContainerRef, how: str) -> None:
        self._container = container
        self._how = how
        self._helper: Helper | None = None
        self._begun = 0.0
        self.pids: list[int] = []
        """Processes that are checkpointed, as seen from here."""
        self.phases: dict[str, float] = {}
        """``cuda_lock``, ``cuda_checkpoint``, ``cuda_resume`` → seconds."""
        self.still_seconds: float = 0.0
        """From the first lock to the last unlock; 0 without GPU."""

    def suspend(self, images: Path, announce: Callable[[list[int]], None], deadline: float) -> None:
        """Lock and checkpoint every process that uses CUDA; write which into ``images``.

        The container must not be frozen. ``announce`` gets the processes before they are touched.
        Raises Unfit, OSError.
        """
        container = self._container
        if not devices.may_use_gpu(container.spec):
            return
        self._helper = Helper(self._how)
        self._begun = time.monotonic()
        done = session.suspend(
            self._helper, lambda: procfs.tree_pids(container), announce, deadline
        )
        self.pids, self.phases = done.pids, done.phases
        if self.pids:
            inner = sorted(session.inner_pid(pid) for pid in self.pids)
            (images / FILE).write_text(json.dumps({"processes": inner}))

    def resume(self) -> None:
        """Give the processes their GPU again and let them run on; sees that they do.

        The container must not be frozen. Raises Unfit.
        """
        if not self.pids or self._helper is None:
            return
        begun = time.monotonic()
        deadline = begun + session.restore_seconds(self.pids)
        session.restore(self._helper, self.pids, {}, deadline)
        session.unlock(self._helper, self.pids, deadline)
        for pid, state in self._helper.states(self.pids, deadline).items():
            if state is not State.RUNNING:
                raise Unfit(f"{session.name(pid)} is {state.name.lower()} after it was unlocked")
        self.phases["cuda_resume"] = round(time.monotonic() - begun, 6)
        self.still_seconds = time.monotonic() - self._begun

    def close(self) -> None:
        """End the helper."""
        if self._helper is not None:
            self._helper.close()
