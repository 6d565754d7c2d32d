"""Memory that is mapped from the snapshot: shared, each container's own once written, and exact.

That a program sees no difference is test_inside.py's (tests/e2e/workloads/mapped.py); here is what
can be seen from outside.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.e2e.conftest import WEB
from tests.e2e.pods import Container, Pod, Running
from tests.e2e.stack import STORE, Stack, is_cold

pytestmark = pytest.mark.node

MIB = 64
BIG = Pod(
    name="big",
    containers=[Container(args=("-B", "-u", "-m", "workloads.runner", "big-memory"))],
)
"""A process with 64 MiB of random memory, besides the small server."""

MAPPINGS = r"""
import json, os, re
found = {"mapped": 0, "private": 0, "shared": 0, "names": []}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        text = open(f"/proc/{pid}/smaps").read()
    except OSError:
        continue
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text):
        if "/.podthaw-pages" in block.split("\n")[0]:
            value = lambda key: int(re.search(rf"{key}:\s+(\d+)", block)[1])
            found["mapped"] += value("Size")
            found["private"] += value("Private_Dirty") + value("Anonymous")
            found["shared"] += value("Shared_Clean") + value("Private_Clean")
            found["names"].append(pid)
print(json.dumps(found))
"""


def mappings(pod: Running) -> dict[str, object]:
    """KiB of mapped memory of all processes of a pod's container, by what became of it."""
    status, output, errors = pod.exec(["python3", "-c", MAPPINGS])
    assert status == 0, errors
    value: dict[str, object] = json.loads(output)
    return value


def memory_of(stack: Stack, name: str) -> str:
    """How the snapshot's memory comes back, from its manifest."""
    return str(json.loads(stack.node.read(f"{stack.snapshot(name)}/manifest.json"))["memory"])


def test_mapped_is_the_default(stack: Stack) -> None:
    pod = stack.pods.start(BIG)
    stack.capture(pod, "big")
    assert memory_of(stack, "e2e/big") == "mapped"
    assert stack.podthaw("verify", "e2e/big").status == 0
    restored = stack.pods.start(BIG.restoring("big", on_failure="fail"))
    assert not is_cold(restored)
    found = mappings(restored)
    assert found["mapped"] >= MIB << 10, found
    assert restored.observe() == pod.observe()
    assert mappings(pod)["mapped"] == 0
