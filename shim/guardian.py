"""A small process that outlives a capture which is killed, and undoes what it left.

    python … RECORD [LOCK]     with a pipe as standard input

The capture writes ``criu PID START`` once the dump runs and ``done`` when all is well; when the
pipe ends without ``done``, the capture is dead. It runs in a session of its own and ignores the
signals that a terminal or a service manager sends to the capture's group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from shim import leftovers
from shim.leftovers import Criu

_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from shim import guardian; guardian.main()"
)


class Guardian:
    """The capture's side: starts the process, tells it what goes on, releases it."""

    def __init__(self, record: Path, *, lock: tuple[Path, int] | None = None) -> None:
        """``lock``: a lock file and its descriptor, held and in the end removed in our place."""
        root = str(Path(__file__).resolve().parents[1])
        names = [str(lock[0])] if lock else []
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, root, str(record), *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[lock[1]] if lock else [],
        )

    def wait_ready(self) -> None:
        """Wait until it watches: nothing may be frozen before."""
        if self._process.stdout is not None:
            self._process.stdout.readline()

    def watch(self, criu: Criu) -> None:
        """Tell which process does the dump."""
        self._tell(f"criu {criu.pid} {criu.started}\n")

    def release(self, *, well: bool = True) -> None:
        """End it: everything is as it should be, or (not ``well``) it has to see to that first.

        The latter when the undoing itself was interrupted, by a second Ctrl-C for example.
        """
        if well:
            self._tell("done\n")
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        self.release()

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):  # a guardian that died guards no more
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


def main() -> None:
    """The guardian's side."""
    path = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, b"ready\n")
    criu = None
    for line in sys.stdin:
        words = line.split()
        if words[:1] == ["done"]:
            return
        if words[:1] == ["criu"] and len(words) == 3:
            criu = Criu(pid=int(words[1]), started=int(words[2]))
    record = leftovers.read(path)
    if record is not None:
        leftovers.undo(record, criu)
        path.unlink(missing_ok=True)
    for name in sys.argv[2:]:
        Path(name).unlink(missing_ok=True)
