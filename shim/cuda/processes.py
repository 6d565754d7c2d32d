"""Which processes of a container use CUDA: the driver is asked about each, names tell nothing."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from shim.cuda import devices
from shim.cuda.calls import State
from shim.cuda.helper import Helper
from shim.errors import Unfit

_SECONDS = 15.0
"""For loading the driver and its answers about every process."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the driver tells of a container."""

    states: dict[int, State] = field(default_factory=dict)
    """Processes that use CUDA."""
    problem: str = ""
    """Why the driver could not be asked, in words."""


def look(spec: devices.Spec, pids: Collection[int], how: str) -> Look:
    """Ask the driver about the processes of a container; nothing is loaded for one without GPU."""
    if not devices.may_use_gpu(spec):
        return Look()
    try:
        with Helper(how, restores=False) as helper:
            return Look(states=helper.states(pids, time.monotonic() + _SECONDS))
    except Unfit as error:
        return Look(problem=str(error))
