"""How long it takes: cold, restored by Podthaw, the stock way, and the driver alone in place.

The stock way is what CRIU and cuda-checkpoint do: CRIU copies every page into the new process, and
then the driver is called for one process after another. Here it is Podthaw's restore of a snapshot
captured with ``--memory eager``, of a program with one CUDA process: the same two steps, one after
the other, with Podthaw's checks around them. All snapshots are in the page cache.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import Any

from tests.gpu import runs
from tests.gpu.cases import Case
from tests.gpu.pods import Running, start
from tests.gpu.suspending import Suspender, members

RESTORES = 3


def measure(bench: runs.Bench, size: int, *, gpu: bool) -> dict[str, Any]:
    """All figures for a size in MiB."""
    script = ("graph.py", str(size)) if gpu else ("plain.py", str(size))
    case = Case(name=f"figures-{size}", about=f"{size} MiB", script=script)
    program = bench.build(case)
    original = start(bench.cri, program, case.name)
    try:
        original.wait_steps(3, timeout=300)
        result: dict[str, Any] = {
            "mib": size,
            "cold": round(original.first_step() - original.asked, 3),
        }
        if gpu:
            result["in_place"] = _in_place(original)
        for way, options in (("podthaw", ["--memory", "mapped"]), ("stock", ["--memory", "eager"])):
            name = f"{case.name}-{way}"
            told = runs.captured(
                replace(bench, capture=lambda pod, name: runs.capture(pod, name, *options)),  # noqa: B023 - it is called in this round
                original,
                name,
            )
            restores = []
            for _ in range(RESTORES):
                restored, measured = runs.restore(bench, program, name, original)
                restored.remove()
                restores.append(measured)
            result[way] = {
                "capture": told,
                "restores": restores,
                "first": median(one["first"] for one in restores),
            }
    finally:
        original.remove()
    result["times_faster"] = round(result["stock"]["first"] / result["podthaw"]["first"], 2)
    return result


def _in_place(pod: Running) -> dict[str, float]:
    """The driver's own checkpoint and restore of the program where it stands."""
    suspender = Suspender()
    pids = suspender.users(members(pod.container))
    down = suspender.suspend(pids)
    begun = time.time()
    up = suspender.resume(pids)
    pod.wait_steps_to(max(pod.steps()) + 2)
    first = pod.first_step(after=begun) - begun
    return {name: round(value, 3) for name, value in {**down, **up, "first": first}.items()}
