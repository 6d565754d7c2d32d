"""The process that makes the driver's calls, for all processes of a container at once.

    python … HOW [init]     with pipes as standard input and output, JSON lines both ways

    → {"do": "lock", "pids": [12, 13], "seconds": 5.0}      → {"do": "state", "pids": [12]}
    ← {"pid": 12, "seconds": 0.1}                           ← {"pid": 12, "state": 1}
    ← {"pid": 13, "code": 801, "why": "…"}

It ends itself when its standard input does, whatever hangs then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress

from shim.cuda import DRIVER
from shim.cuda.calls import DriverError, in_words
from shim.errors import PodthawError, Unfit

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from shim.cuda.calls import Calls


def main() -> None:
    """The process's whole life."""
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

    def __init__(self, loader: Callable[[str], Calls], answers: int) -> None:
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
        with self._writing, suppress(OSError):
            os.write(self._answers, json.dumps(answer).encode() + b"\n")
