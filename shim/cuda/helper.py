"""A process that makes the driver's calls, for all processes of a container at once.

    python … HOW [init]     with pipes as standard input and output, JSON lines both ways

It is started early, so that loading the driver and cuInit cost nothing while CRIU works. A call
that hangs (the driver waits for a thread of the process that it asks about) hangs only this
process, which is killed then. It ends itself when its standard input does.

    → {"do": "lock", "pids": [12, 13], "seconds": 5.0}      → {"do": "state", "pids": [12]}
    ← {"pid": 12, "seconds": 0.1}                           ← {"pid": 12, "state": 1}
    ← {"pid": 13, "code": 801, "why": "…"}
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shim.cuda import DRIVER
from shim.cuda.calls import Calls, DriverError, State, in_words
from shim.errors import PodthawError, Unfit

_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from shim.cuda import helper; helper.main()"
)
_ENDING = 2.0
"""Seconds to wait for a helper that was killed; one that hangs inside the kernel is left to it."""


@dataclass(frozen=True, kw_only=True)
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
        root = str(Path(__file__).resolve().parents[2])
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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING)
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):
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


def main() -> None:
    """The helper's own life."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    Service(load, answers).run(sys.argv[1], sys.stdin, restores=len(sys.argv) > 2)
    # Threads and programs that still wait for the driver end with this process.
    os.killpg(0, signal.SIGKILL)


def load(how: str) -> Calls:
    """The driver, by its API or through the program at the path ``how``. Raises Unfit."""
    if how == DRIVER:
        from shim.cuda.driver import Driver  # noqa: PLC0415 - ctypes is not always needed

        return Driver.load()
    from shim.cuda.program import Program  # noqa: PLC0415

    return Program(how)


class Service:
    """Answers the lines of one input: a thread for each process that is asked about."""

    def __init__(self, loader: Any, answers: int) -> None:  # noqa: ANN401 - of main or a test
        self._loader = loader
        self._answers = answers
        self._writing = threading.Lock()
        self._initialized = threading.Event()
        self._problem: DriverError | None = None

    def run(self, how: str, lines: Iterable[str], *, restores: bool) -> None:
        """Greet, then answer each line, until there are no more."""
        try:
            calls = self._loader(how)
        except PodthawError as error:
            self._say({"unfit": str(error)})
            return
        self._say({"ready": True})
        if restores:
            threading.Thread(target=self._initialize, args=(calls,), daemon=True).start()
        else:
            self._initialized.set()
        for line in lines:
            order = json.loads(line)
            for pid in order["pids"]:
                threading.Thread(target=self._call, args=(calls, order, pid), daemon=True).start()

    def _initialize(self, calls: Calls) -> None:
        try:
            calls.initialize()
        except DriverError as error:
            self._problem = error
        except Unfit as error:
            self._problem = DriverError("init", -1, "", str(error))
        finally:
            self._initialized.set()

    def _call(self, calls: Calls, order: Mapping[str, Any], pid: int) -> None:
        begun = time.monotonic()
        answer: dict[str, Any] = {"pid": pid}
        try:
            answer |= self._one(calls, order, pid)
        except DriverError as error:
            answer |= {"code": error.code or -1, "why": in_words(error)}
        except Exception as error:  # noqa: BLE001 - the caller waits for an answer
            answer |= {"code": -1, "why": str(error) or type(error).__name__}
        self._say({**answer, "seconds": round(time.monotonic() - begun, 6)})

    def _one(self, calls: Calls, order: Mapping[str, Any], pid: int) -> dict[str, Any]:
        call = order["do"]
        if call == "state":
            state = calls.state(pid)
            return {"state": None if state is None else int(state)}
        if call == "lock":
            calls.lock(pid, order["seconds"])
        elif call == "checkpoint":
            calls.checkpoint(pid)
        elif call == "restore":
            self._initialized.wait()
            if self._problem is not None:
                raise self._problem
            calls.restore(pid, order["gpu_map"])
        elif call == "unlock":
            calls.unlock(pid)
        else:
            raise DriverError(str(call), -1, "", "there is no such call")
        return {}

    def _say(self, answer: Mapping[str, Any]) -> None:
        with self._writing, contextlib.suppress(OSError):
            os.write(self._answers, json.dumps(answer).encode() + b"\n")
