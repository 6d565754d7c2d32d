"""``podthaw-runc``: runc's command line, with a restore where a plan asks for one.

The hot path. Every start of every container passes here several times, so a call that has
nothing to do with a plan costs a scan of the arguments and at most one small file, then becomes
the runtime below; whatever else is needed is imported only when a plan turns up.
"""

from __future__ import annotations

import os
import sys

from shim import argv, runlog, runtime

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from typing import NoReturn

RUN_VARIABLE = "PODTHAW_RUN"
"""Environment: the run directory when it is not /run/podthaw."""

_DEFAULT_RUN = "/run/podthaw"
_PLAN_MARK = b"podthaw.dev/plan"
_DONE = b'"done": true'
"""In a journal (:mod:`shim.journal`): the container was restored. No value can hold these bytes,
since JSON escapes the quotation marks in it."""

_LOCKED = b'"locked": {"'
"""In a journal: some of its processes are locked by the GPU's driver until ``start``."""


def main() -> int:
    """The program. Returns the exit status when it has not become the runtime below."""
    arguments = sys.argv[1:]
    command = argv.scan(arguments)
    run = os.environ.get(RUN_VARIABLE) or _DEFAULT_RUN
    try:
        if command.verb == "create":
            if _has_plan(command):
                from shim import restore  # noqa: PLC0415

                return restore.create(command, arguments, run)
        elif command.verb == "start":
            journal = _content(f"{run}/restores/{command.id}")
            if _DONE in journal:
                if _LOCKED in journal:
                    from shim.cuda import restoring  # noqa: PLC0415

                    restoring.unlock_at_start(run, command.id)
                return 0  # it runs already
        elif command.verb == "delete" and os.path.exists(f"{run}/restores/{command.id}"):
            from shim import restore  # noqa: PLC0415

            restore.before_delete(command, run)
        elif command.verb == "delete" and os.path.exists(f"{run}/shm/{command.id}"):
            from shim import shm  # noqa: PLC0415

            shm.forget(run, command.id)  # the pod's sandbox goes, and its shared memory
        runtime.execute(runtime.find(run), arguments)
    except runtime.NotFoundError as error:
        runlog.error(str(error), command.log, command.log_format)
        return 1
    except Exception as error:  # noqa: BLE001 - containerd shows --log, and never a traceback
        said = str(error) if hasattr(error, "kind") else f"{type(error).__name__}: {error}"
        runlog.error(f"podthaw-runc failed: {said}", command.log, command.log_format)
        return 1


def _has_plan(command: argv.Command) -> bool:
    """Whether the bundle's configuration mentions a plan; runc reports a bundle it cannot read."""
    path = os.path.join(command.options.get("bundle", ""), "config.json")
    return _PLAN_MARK in _content(path)


def _content(path: str) -> bytes:
    """A file's bytes; none when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = b""
        while chunk := os.read(fd, 1 << 20):
            data += chunk
    except OSError:
        return b""
    finally:
        os.close(fd)
    return data


def leave(status: int) -> NoReturn:
    """End the program at once: what the interpreter would tidy up takes it several milliseconds."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # nobody is there to read it
    os._exit(status)


if __name__ == "__main__":
    leave(main())
