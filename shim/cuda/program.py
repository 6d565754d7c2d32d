"""NVIDIA's program cuda-checkpoint in place of the driver's API, where the settings name it.

    cuda-checkpoint --get-state --pid PID
    cuda-checkpoint --action lock|checkpoint|restore|unlock --pid PID [--timeout MS]
                    [--device-map OLD=NEW,…]

Each start of it initializes CUDA anew, which takes up to seconds.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

from shim.cuda.calls import NOT_INITIALIZED, DriverError, State
from shim.errors import Unfit

_STATES = {state.name.lower(): state for state in State}
_NO_CUDA = re.compile(
    r"initialization error|not initialized|OS call failed|No such process", re.IGNORECASE
)
"""What it says of a process that does not use CUDA or is gone."""

_CODES = (
    (re.compile(r"not supported", re.IGNORECASE), 801),
    (re.compile(r"out of memory", re.IGNORECASE), 2),
    (re.compile(r"invalid argument", re.IGNORECASE), 1),
    (re.compile(r"present state", re.IGNORECASE), 401),
    (re.compile(r"not ready|timed? ?out", re.IGNORECASE), 600),
)
"""The driver's words, which it passes on, and their CUresult."""


class Program:
    """Calls through the program; they may come from several threads."""

    def __init__(self, path: str) -> None:
        self._path = path

    def initialize(self) -> None:
        """Nothing to do: the program does it each time. Unfit when it cannot be started."""
        self._run("--help")

    def state(self, pid: int) -> State | None:
        """State of a process; None when it does not use CUDA or is gone."""
        done = self._run("--get-state", "--pid", str(pid))
        words = (done.stdout or "").strip().lower()
        if done.returncode == 0 and words in _STATES:
            return _STATES[words]
        said = _said(done)
        if _NO_CUDA.search(said):
            return None
        raise DriverError("state", -1, "", said)

    def lock(self, pid: int, seconds: float) -> None:
        """``--action lock``."""
        self._act("lock", pid, "--timeout", str(max(1, int(seconds * 1000))))

    def checkpoint(self, pid: int) -> None:
        """``--action checkpoint``."""
        self._act("checkpoint", pid)

    def restore(self, pid: int, gpu_map: Mapping[str, str]) -> None:
        """``--action restore``, with the map where a GPU changes."""
        changes = any(old != new for old, new in gpu_map.items())
        pairs = ",".join(f"{old}={new}" for old, new in gpu_map.items())
        self._act("restore", pid, *(("--device-map", pairs) if changes else ()))

    def unlock(self, pid: int) -> None:
        """``--action unlock``."""
        self._act("unlock", pid)

    def _act(self, action: str, pid: int, *more: str) -> None:
        done = self._run("--action", action, "--pid", str(pid), *more)
        if done.returncode:
            said = _said(done)
            code = next((code for form, code in _CODES if form.search(said)), -1)
            if _NO_CUDA.search(said):
                code = NOT_INITIALIZED
            raise DriverError(action, code, "cuda-checkpoint", said)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self._path, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise Unfit(
                f"the program {self._path} of the setting cuda cannot be started: {error.strerror}"
            ) from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout or "").strip().splitlines()
    return lines[-1] if lines else f"it ended with status {done.returncode}"
