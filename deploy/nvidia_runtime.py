#!/usr/bin/python3 -IS
"""``podthaw-nvidia-runtime``: NVIDIA's container runtime, with podthaw-runc as the runtime below.

nvidia-container-runtime adds the devices of a GPU to a container's specification and then calls
the first program that ``nvidia-container-runtime.runtimes`` of its configuration names. It reads
the file that NVIDIA_CTK_CONFIG_FILE_PATH names, and versions that do not know that variable
XDG_CONFIG_HOME/nvidia-container-runtime/config.toml; the node's own file and the handler
"nvidia" stay as they are.
"""

from __future__ import annotations

import os
import sys

# Without pathlib, whose import would take longer than all the rest.
PREFIX = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
sys.path.insert(0, f"{PREFIX}/lib")

from shim import argv, runlog, runtime  # noqa: E402 - found by the line above

PROGRAM = "nvidia-container-runtime"


def main() -> int:
    """Become nvidia-container-runtime; returns the exit status when that is impossible."""
    arguments = sys.argv[1:]
    command = argv.scan(arguments)
    folder = f"{PREFIX}/config"
    environment = {
        **os.environ,
        "NVIDIA_CTK_CONFIG_FILE_PATH": f"{folder}/{PROGRAM}/config.toml",
        "XDG_CONFIG_HOME": folder,
    }
    try:
        program = runtime.find("", PROGRAM)
        os.execve(program, [program, *arguments], environment)  # noqa: S606 - it becomes it
    except runtime.NotFoundError as error:
        problem = f"{error}: install the NVIDIA Container Toolkit"
    except OSError as error:
        problem = f"{PROGRAM} cannot be started: {error.strerror}"
    runlog.error(problem, command.log, command.log_format)
    return 1


if __name__ == "__main__":
    sys.exit(main())
