#!/usr/bin/python3 -IS
"""``podthaw-nvidia-runtime``: NVIDIA's container runtime, with podthaw-runc as the runtime below.

nvidia-container-runtime adds the devices of a GPU to a container's specification and then calls
the first program of ``nvidia-container-runtime.runtimes`` in its configuration that it finds:
``runc`` by default, looked up on PATH. So all that is changed for it is PATH: a folder with links
of these names to podthaw-runc comes first. The node's own configuration stays in force, and so
does that of the GPU Operator, whose nvidia-container-runtime is a script that sets the variable
for the configuration file itself and puts its own folder before the PATH that it was given.
"""

from __future__ import annotations

import os
import sys

# Without pathlib, whose import would take longer than all the rest.
PREFIX = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
sys.path.insert(0, f"{PREFIX}/lib")

from shim import argv, runlog, runtime  # noqa: E402 - found by the line above

PROGRAM = "nvidia-container-runtime"
FOUND = f"{PREFIX}/nvidia/{PROGRAM}"
"""A link that podthaw-dropin makes to the program of containerd's own runtime for GPUs."""
OPERATOR = f"/usr/local/nvidia/toolkit/{PROGRAM}"
"""Where the GPU Operator installs it."""


def find() -> str:
    """Path of nvidia-container-runtime. Raises NotFoundError."""
    for path in (FOUND, OPERATOR):
        if os.access(path, os.X_OK):
            return os.readlink(path) if path == FOUND else path  # noqa: PTH115 - see above
    return runtime.find("", PROGRAM)


def main() -> int:
    """Become nvidia-container-runtime; returns the exit status when that is impossible."""
    arguments = sys.argv[1:]
    command = argv.scan(arguments)
    path = os.environ.get("PATH") or os.defpath
    environment = {**os.environ, "PATH": f"{PREFIX}/nvidia/runtimes:{path}"}
    try:
        program = find()
        os.execve(program, [program, *arguments], environment)  # noqa: S606 - it becomes it
    except runtime.NotFoundError as error:
        problem = f"{error}: install the NVIDIA Container Toolkit"
    except OSError as error:
        problem = f"{PROGRAM} cannot be started: {error.strerror}"
    runlog.error(problem, command.log, command.log_format)
    return 1


if __name__ == "__main__":
    sys.exit(main())
