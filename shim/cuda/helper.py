"""The caller's side of the process that makes the driver's calls (:mod:`shim.cuda.service`).

It is started early, so that loading the driver and cuInit cost nothing while CRIU works. A call
that hangs (the driver waits for a thread of the process that it asks about) hangs only that
process, which is killed then.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

from shim.cuda import DRIVER
from shim.cuda.calls import State
from shim.errors import Unfit
from shim.record import record

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import TracebackType
    from typing import Any, Self

_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from shim.cuda import service; service.main()"
)
_ENDING = 2.0
"""Seconds to wait for a helper that was killed; one that hangs inside the kernel is left to it."""


@record(frozen=True, kw_only=True)
class Answer:
    """What became of a call for one process."""

    pid: int
    state: State | None = None
    """Only for ``state``; None for a process that does not use CUDA or is gone."""
    seconds: float = 0.0
    code: int = 0
    """CUresult; not zero when the driver refused."""
    why: str = ""
    """The refusal in words."""


class StuckError(Unfit):
    """The driver did not answer in time; the helper was killed."""


class Helper:
    """The caller's side."""

    def __init__(self, how: str = DRIVER, *, restores: bool = True) -> None:
        """``how``: the driver's API, or the path of cuda-checkpoint.

        ``restores``: whether a restore will be asked for, which needs cuInit; it begins at once.
        """
        root = os.path.abspath(f"{os.path.dirname(__file__)}/../..")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, root, how, *(["init"] if restores else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        assert self._process.stdout is not None  # noqa: S101
        self._input, self._output = self._process.stdin, self._process.stdout
        self._buffer = b""
        self._greeted = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_ready(self, deadline: float) -> None:
        """Wait until the driver is loaded.

        ``deadline`` is on :func:`time.monotonic`'s clock, here and below. Raises Unfit when there
        is no driver, or it is too old; StuckError at the deadline.
        """
        if self._greeted:
            return
        greeting = self._line(deadline, "loading it")
        if "unfit" in greeting:
            self.close()
            raise Unfit(str(greeting["unfit"]))
        self._greeted = True

    def states(self, pids: Collection[int], deadline: float) -> dict[int, State]:
        """State of each process that uses CUDA; the others are not in the answer."""
        answers = self.ask("state", pids, deadline)
        failed = next((one for one in answers.values() if one.code), None)
        if failed is not None:
            raise Unfit(
                f"the NVIDIA driver does not tell the state of process {failed.pid}: {failed.why}"
            )
        return {pid: one.state for pid, one in answers.items() if one.state is not None}

    def ask(
        self,
        call: str,
        pids: Collection[int],
        deadline: float,
        *,
        seconds: float = 0.0,
        gpu_map: Mapping[str, str] | None = None,
    ) -> dict[int, Answer]:
        """Make one call for several processes at once, and wait for every answer.

        ``call`` is a method of :class:`shim.cuda.calls.Calls`; ``seconds`` and ``gpu_map`` are for
        lock and restore. What the driver refuses is in the answers. Raises Unfit, StuckError.
        """
        self.wait_ready(deadline)
        if not pids:
            return {}
        order = {"do": call, "pids": sorted(pids), "seconds": seconds, "gpu_map": gpu_map or {}}
        try:
            self._input.write(json.dumps(order).encode() + b"\n")
            self._input.flush()
        except OSError:
            raise self._ended() from None
        answers: dict[int, Answer] = {}
        while len(answers) < len(pids):
            waiting = sorted(set(pids) - set(answers))
            line = self._line(deadline, f"{call} of process {', '.join(map(str, waiting))}")
            state = line.get("state")
            answers[line["pid"]] = Answer(
                pid=line["pid"],
                state=None if state is None else State(state),
                seconds=line.get("seconds", 0.0),
                code=line.get("code", 0),
                why=line.get("why", ""),
            )
        return answers

    def close(self) -> None:
        """End it, whatever it is doing."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING)
        for pipe in (self._input, self._output):
            with suppress(OSError):
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._output], [], [], max(0.0, left))
            if not ready:
                self.close()
                raise StuckError(f"the NVIDIA driver did not answer in time ({what})")
            data = os.read(self._output.fileno(), 1 << 16)
            if not data:
                raise self._ended()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        value: dict[str, Any] = json.loads(line)
        return value

    def _ended(self) -> Unfit:
        self.close()
        status = self._process.returncode
        return Unfit(f"the process that asks the NVIDIA driver ended by itself (status {status})")
