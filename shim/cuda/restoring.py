"""The GPU's part of one restore: within ``create`` up to the lock, and the unlock at ``start``."""

from __future__ import annotations

import json
import time

from shim import cgroups
from shim.cuda import FILE, devices, session
from shim.cuda.calls import State
from shim.cuda.helper import Helper
from shim.errors import Broken, Unfit
from shim.journal import Journal, load
from shim.plan import Plan

_UNLOCK_SECONDS = 30.0


class GpuRestore:
    """Started before CRIU, so that the driver is loaded and initialized when it is needed."""

    def __init__(self, order: Plan, spec: devices.Spec) -> None:
        """Match the GPUs, then start the helper. Raises Unfit, Broken; nothing is touched."""
        self._spec = spec
        self._how = order.cuda
        self._wanted = _processes(f"{order.images}/{FILE}")
        self._map = devices.gpu_map(list(order.gpu_map), spec, order.gpus, order.gpu_map)
        self._helper = Helper(order.cuda)

    def restore(self, record: Journal, first: int, deadline: float) -> None:
        """Give every CUDA process its device memory; they stay locked, which goes on record.

        ``first`` is the container's first process. Raises Unfit, Broken.
        """
        devices.place_nodes(f"/proc/{first}/root", self._spec)
        pids = self._find(record, deadline)
        session.restore(self._helper, pids, self._map, deadline)
        record.cuda = self._how
        record.locked = {str(pid): session.start_time(pid) or 0 for pid in pids}
        record.save()

    def unlock(self, record: Journal, deadline: float) -> None:
        """Let them run on already now: a hook needs them. Raises Unfit."""
        session.unlock(self._helper, [int(pid) for pid in record.locked], deadline)
        record.locked = {}
        record.save()

    def close(self) -> None:
        """End the helper."""
        self._helper.close()

    def _find(self, record: Journal, deadline: float) -> list[int]:
        pids = cgroups.processes(record.cgroups)
        states = self._helper.states(pids, deadline)
        for pid, state in states.items():
            if state is not State.CHECKPOINTED:
                raise Unfit(
                    f"{session.name(pid)} is {state.name.lower()} for the NVIDIA driver after "
                    "CRIU's restore, wanted checkpointed"
                )
        found = sorted(session.inner_pid(pid) for pid in states)
        if found != self._wanted:
            raise Unfit(
                "the NVIDIA driver does not know the restored processes: wanted "
                f"{_listed(self._wanted)} of the snapshot as users of CUDA, found {_listed(found)}"
            )
        return list(states)


def unlock_at_start(run: str, container: str) -> None:
    """Let the CUDA processes of a restored container run on. Raises Unfit."""
    record = load(run, container)
    if record is None or not record.locked:
        return
    pids = [
        int(pid) for pid, began in record.locked.items() if session.start_time(int(pid)) == began
    ]
    with Helper(record.cuda, restores=False) as helper:
        session.unlock(helper, pids, time.monotonic() + _UNLOCK_SECONDS)
    record.locked = {}
    record.save()


def _processes(path: str) -> list[int]:
    try:
        with open(path, "rb") as file:
            found = json.load(file)["processes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Broken(f"the snapshot's {FILE} cannot be read: {error}") from error
    if not isinstance(found, list) or not all(type(one) is int for one in found):
        raise Broken(f"the snapshot's {FILE} names no processes")
    return sorted(found)


def _listed(pids: list[int]) -> str:
    return f"process {', '.join(map(str, pids))}" if pids else "none"
