"""Run a case: start cold, capture, restore, and compare every step with the original's.

The original runs on after the capture, so every sum that the restored one prints can be compared
with the sum of the same step of a program that was never restored.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.gpu.cases import Case
from tests.gpu.cri import Cri
from tests.gpu.daemons import Daemons, footprint, podthaw
from tests.gpu.pods import NAMESPACE, Program, Running, last_result, start

STEPS = 8
"""How many steps of a restored program are compared at least."""


@dataclass(kw_only=True)
class Bench:
    """What every run needs."""

    cri: Cri
    """Through Podthaw's proxy."""
    daemons: Daemons
    build: Callable[[Case], Program]
    capture: Callable[[Running, str], dict[str, Any]]
    """Capture a running pod under a name; what there is to say about it."""
    look: Callable[[Running], str]
    """What programs that are run in the container beside it see of the GPU."""
    thaw: Callable[[Running], dict[str, float]]
    """What must still be done after StartContainer; seconds by name."""


class WrongError(AssertionError):
    """A restored program is not what was captured."""


def run(bench: Bench, case: Case) -> dict[str, Any]:
    """Run one case; all that was measured. Raises when anything is not as it should be."""
    program = bench.build(case)
    result: dict[str, Any] = {"case": case.name, "about": case.about}
    original = start(bench.cri, program, case.name)
    pods = [original]
    try:
        original.wait_steps(3, timeout=300)
        result["cold"] = round(original.first_step() - original.asked, 3)
        result["capture"] = captured(bench, original, case.name)
        result["restores"] = restores = []
        before = None
        for number in range(case.restores):
            restored, measured = restore(bench, program, case.name, original)
            pods.append(restored)
            restores.append(measured)
            if case.again:
                result["again"] = _again(bench, program, f"{case.name}-again", restored, original)
            restored.remove()
            pods.remove(restored)
            if case.restores > 1:
                time.sleep(0.3)
                after = footprint(bench.daemons)
                if number == 1:  # the first ones fill caches
                    before = after
        if before is not None:
            result["footprint"] = {"after_2": before, "at_end": after}
            grown = {
                key: (before[key], after[key])
                for key in before
                if (after[key] or 0) > (before[key] or 0)
            }
            _require(not grown, f"grown over {case.restores - 2} restores: {grown}")
    finally:
        for pod in pods:
            pod.remove()
    return result


def restore(
    bench: Bench, program: Program, name: str, original: Running
) -> tuple[Running, dict[str, Any]]:
    """Restore once, measure, and compare with the original, which runs."""
    restored = start(bench.cri, program, name, snapshot=name)
    try:
        after = bench.thaw(restored)
        restored.wait_steps(STEPS, timeout=120)
        report = last_result()
        compare(restored, original, report)
        there, here = bench.look(original), bench.look(restored)
        _require(there == here, f"{restored.name}: it sees {here!r}, the original {there!r}")
    except BaseException:
        restored.remove()
        raise
    measured = {
        "start": round(restored.answered - restored.asked, 3),
        "first": round(restored.first_step() - restored.asked, 3),
        "phases": report.get("phases", {}),
    }
    if after:
        measured["after"] = {key: round(value, 3) for key, value in after.items()}
    return restored, measured


def compare(restored: Running, original: Running, report: dict[str, Any]) -> None:
    """WrongError unless it was restored, and every step has the original's sum."""
    well = report.get("outcome") == "restored" and not restored.is_cold()
    _require(well, f"{restored.name} started cold: {report}")
    steps = restored.steps()
    original.wait_steps_to(max(steps))
    known = original.steps()
    different = [number for number, value in steps.items() if known.get(number) != value]
    _require(not different, f"{restored.name}: {len(different)} of {len(steps)} steps differ")


def _require(condition: bool, text: str) -> None:  # noqa: FBT001 - as assert takes it
    if not condition:
        raise WrongError(text)


def captured(bench: Bench, pod: Running, name: str) -> dict[str, Any]:
    """Capture; the pod must run on."""
    begun = time.time()
    told = bench.capture(pod, name)
    ended = time.time()
    last = max(pod.steps())
    pod.wait_steps_to(last + 3)
    stamps = [at for at, value in pod.lines() if "step" in value and at > begun - 1]
    gaps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    return told | {"seconds": round(ended - begun, 3), "still": round(max(gaps), 3)}


def _again(
    bench: Bench, program: Program, name: str, restored: Running, original: Running
) -> dict[str, Any]:
    """Capture what was restored, and restore that."""
    told = captured(bench, restored, name)
    compare(restored, original, last_result())
    second, measured = restore(bench, program, name, original)
    second.remove()
    return {"capture": told, "restore": measured}


def capture(pod: Running, name: str, *options: str) -> dict[str, Any]:
    """``podthaw capture``."""
    arguments = ["capture", f"{NAMESPACE}/{pod.name}", "--name", name, "-o", "json", *options]
    told: dict[str, Any] = json.loads(podthaw(*arguments))
    return {key: told[key] for key in ("size", "frozen_seconds", "phases")}
