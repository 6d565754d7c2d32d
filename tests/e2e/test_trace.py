"""``podthaw trace``: the stages of a real start are there, in order, and add up to the whole."""

from __future__ import annotations

import json
import time
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.e2e.conftest import WEB
from tests.e2e.stack import Stack

pytestmark = pytest.mark.node

CLOSE = 0.0002
"""Seconds: what may lie between two parts, since less is no part of its own."""


def traced(stack: Stack, pod: str) -> dict[str, Any]:
    """The only start of a pod."""
    found = json.loads(stack.podthaw("trace", f"e2e/{pod}", "-o", "json").stdout)
    assert len(found) == 1
    start: dict[str, Any] = found[0]
    return start


def check_sums(stages: list[dict[str, Any]]) -> None:
    """The parts of each stage follow one another from its begin to its end."""
    for index, whole in enumerate(stages):
        at, end = whole["at"], whole["at"] + whole["seconds"]
        below = 0
        for part in stages[index + 1 :]:
            if part["depth"] <= whole["depth"]:
                break
            if part["depth"] == whole["depth"] + 1:
                assert abs(part["at"] - at) < CLOSE, (whole, part)
                at = part["at"] + part["seconds"]
                below += 1
        assert not below or abs(at - end) < CLOSE, whole


def test_a_restore(stack: Stack, web: str) -> None:
    before = time.monotonic()
    pod = stack.pods.start(WEB.restoring(web), ready=False)
    took = time.monotonic() - before
    start = traced(stack, pod.name)
    stages = start["stages"]
    check_sums(stages)
    calls = [stage for stage in stages if stage["depth"] == 0]
    assert [stage["name"] for stage in calls] == [
        "CreateContainer",
        "between the calls",
        "StartContainer",
    ]
    assert start["outcome"] == "restored"
    assert abs(sum(stage["seconds"] for stage in calls) - start["seconds"]) < CLOSE
    assert start["seconds"] < took  # the sandbox was made before
    asked = pod.start_seconds["main"]
    assert 0.3 * asked < calls[-1]["seconds"] <= asked
    order = [stage["name"] for stage in stages]
    wanted = [
        "verify, prepare the plan",
        "containerd creates",
        "containerd, shim",
        "podthaw-runc create",
        "interpreter and imports",
        "compare with the request",
        "runc restore",
        "CRIU: images, cgroups",
        "CRIU: processes, namespaces",
        "CRIU: mounts",
        "CRIU: files, mappings",
        "CRIU: memory",
        "CRIU: resume",
        "start, containerd",
    ]
    assert [name for name in order if name in wanted] == wanted
    assert start["faults"]["minor"] > 0


def test_a_cold_start(stack: Stack) -> None:
    pod = stack.pods.start(WEB.restoring("there-is-none"))
    start = traced(stack, pod.name)
    check_sums(start["stages"])
    assert start["outcome"] == "cold"
    assert start["stages"][-1]["name"] == "StartContainer"
    assert 0 < start["stages"][-1]["seconds"] <= pod.start_seconds["main"]
    assert start["first_line"] > start["stages"][-1]["at"]


def test_the_picture(stack: Stack, web: str) -> None:
    pod = stack.pods.start(WEB.restoring(web), ready=False)
    stack.podthaw("trace", f"e2e/{pod.name}", "--svg", "/tmp/start.svg")
    picture = stack.node.read("/tmp/start.svg").decode()
    shown = "".join(ET.fromstring(picture).itertext())  # noqa: S314 - our own
    assert f"e2e/{pod.name}, container main: restored from {web}" in shown
    assert "CRIU: memory" in shown
