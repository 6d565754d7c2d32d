"""Why a restore failed, and whose fault it is: the snapshot's, or this host's or pod's.

Only a restore that failed imports this.
"""

from __future__ import annotations

import re

from shim import spec as oci
from shim.criu import log
from shim.errors import Broken, PodthawError, Unfit

_HOST_TROUBLE = re.compile(
    r"No space left on device|Disk quota exceeded|Cannot allocate memory|Too many open files"
    r"|Address already in use|Cannot assign requested address"
    r"|Can't fork .*Resource temporarily unavailable"
)
"""Failures of CRIU that are the host's or this pod's and say nothing about the snapshot.

A port may be taken by another container of the pod, a limit of processes may be too small.
"""

_KILLED = "killed by signal 9"
"""As the first error it says that somebody else killed a process: the kernel, because the memory
limit of the request is too small, or a person."""


def explain(work: str, folder: str, what: str, spec: oci.Spec) -> PodthawError:
    """The failure with its reason from CRIU's log in ``work``, or else from runc's in ``folder``.

    A file that a volume lacks is the pod's matter: the snapshot fits a pod whose volume has it.
    """
    lines = log.tail(f"{work}/restore.log")
    if not lines:
        lines = _runc_errors(log.read_tail(f"{folder}/runc.log"))
        meaning = lines[-1] if lines else ""
    else:
        meaning = log.explain(lines) or _first_error(lines)
    message = f"{what}: {meaning}" if meaning else what
    trouble = _KILLED in _first_error(lines) if lines else False
    trouble = trouble or any(
        _HOST_TROUBLE.search(line) or _is_in_volume(log.file_of(line), spec) for line in lines
    )
    kind = Unfit if trouble else Broken
    return kind(message, detail="\n".join(lines))


def _is_in_volume(path: str, spec: oci.Spec) -> bool:
    places = (
        str(mount.get("destination")) for mount in oci.spec_mounts(spec) if oci.is_bind(mount)
    )
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)


def _first_error(lines: list[str]) -> str:
    return next((line for line in lines if "Error (" in line), lines[-1])


def _runc_errors(lines: list[str]) -> list[str]:
    """The messages of level error in runc's log of text format."""
    found = []
    for line in lines:
        match = re.search(r'level=error msg="(.*)"\s*$', line)
        if match:
            found.append(match[1].replace('\\"', '"'))
    return found
