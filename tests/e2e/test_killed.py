"""A restore that is killed in the middle, by whomever: nothing of it stays on the node.

CRIU is held where all processes exist and none runs yet, by an action script in the plan.
"""

from __future__ import annotations

import threading

import grpc
import pytest

from tests.e2e.conftest import WEB
from tests.e2e.pods import Running, eventually
from tests.e2e.stack import RUN, Footprint, Stack, is_cold
from tests.node.node import PREFIX

pytestmark = pytest.mark.node

# The newest plan; the script says that it is held, and holds for longer than any deadline here.
HOLD = f"""
plan=$(ls -dt {RUN}/plans/*/ | head -n 1)
printf '#!/bin/sh\\n[ "$CRTOOLS_SCRIPT_ACTION" = post-restore ] || exit 0\\n' > $plan/hold
printf 'touch %s/held\\nsleep 300\\n' $plan >> $plan/hold
chmod +x $plan/hold
echo "action-script $plan/hold" >> $plan/criu.conf
echo $plan
"""
SHIM = "pgrep -o -f '^/usr/bin/python3 -IS [^ ]*podthaw-runc .* create '"
KILLS = {
    "shim": f"kill -9 $({SHIM})",
    "worker": f"kill -9 $(pgrep -P $({SHIM}))",
    "both": f"shim=$({SHIM}); worker=$(pgrep -P $shim); kill -STOP $shim; kill -9 $worker $shim",
    "runc": f"kill -9 $(pgrep -P $(pgrep -P $({SHIM})))",
    "terminated": f"kill -TERM $({SHIM})",
}
"""Which process, and how; the shim's worker is its child, runc the worker's."""


class Held:
    """A pod whose StartContainer is held in the middle of the restore."""

    def __init__(self, stack: Stack, snapshot: str) -> None:
        self.stack = stack
        self.running: Running = stack.pods.sandbox(WEB.restoring(snapshot))
        stack.pods.create(self.running, WEB.containers[0])
        self.plan = stack.node.exec(["sh", "-c", HOLD]).stdout.strip()
        self.error = ""
        self.thread = threading.Thread(target=self._start)
        self.thread.start()
        there = ["test", "-e", f"{self.plan}/held"]
        assert eventually(lambda: stack.node.exec(there, check=False).status == 0, 30), (
            stack.node.exec(["sh", "-c", f"cat {self.plan}/result.json {self.plan}/*.log"],
                            check=False).stdout[-3000:]
        )  # fmt: skip

    def _start(self) -> None:
        try:
            self.stack.pods.start_container(self.running, WEB.containers[0].name)
        except grpc.RpcError as error:
            self.error = str(error.details())

    def kill(self, how: str) -> None:
        """Kill, and wait for the end of StartContainer."""
        self.stack.node.exec(["sh", "-c", KILLS[how]])
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()


def assert_clean(stack: Stack, before: Footprint, *, seconds: float = 15) -> None:
    """Nothing is there that was not there before."""
    left: object = None

    def clean() -> bool:
        nonlocal left
        left = stack.footprint().beyond(before)
        return left == {}

    assert eventually(clean, seconds), left


@pytest.mark.parametrize("how", ["worker", "runc"])
def test_the_container_starts_cold_when_somebody_below_is_killed(
    stack: Stack, web: str, how: str
) -> None:
    before = stack.footprint()
    held = Held(stack, web)
    held.kill(how)
    assert held.error == ""
    held.running.wait_ready()
    assert is_cold(held.running)
    assert "criu" not in held.running.log()
    stack.pods.remove(held.running)
    assert_clean(stack, before)


@pytest.mark.parametrize("how", ["shim", "terminated"])
def test_a_start_that_is_cut_off_leaves_nothing(stack: Stack, web: str, how: str) -> None:
    before = stack.footprint()
    held = Held(stack, web)
    held.kill(how)
    assert held.error
    stack.pods.remove(held.running)
    assert_clean(stack, before)


def test_when_all_are_killed_the_next_to_look_takes_it_back(stack: Stack, web: str) -> None:
    before = stack.footprint()
    held = Held(stack, web)
    held.kill("both")
    assert held.error
    code = (
        f"import sys; sys.path.insert(0, '{PREFIX}/lib'); "
        "from shim import restore; print(restore.recover())"
    )
    said = stack.node.exec(["python3", "-c", code]).stdout
    assert held.running.id() in said
    assert "took back" in said
    stack.pods.remove(held.running)
    assert_clean(stack, before)


def test_the_deadline_ends_in_a_cold_start(stack: Stack, web: str) -> None:
    before = stack.footprint()
    running = stack.pods.sandbox(WEB.restoring(web))
    stack.pods.create(running, WEB.containers[0])
    shorter = 'sed -i \'s/"restore_timeout": [0-9.]*/"restore_timeout": 2.0/\' $plan/plan.json'
    stack.node.exec(["sh", "-c", f"{HOLD}\n{shorter}"])
    stack.pods.start_container(running, WEB.containers[0].name)
    assert running.start_seconds[WEB.containers[0].name] < 20
    running.wait_ready()
    assert is_cold(running)
    stack.podthaw("unquarantine", stack.digest(f"e2e/{web}"))  # too slow counts as broken
    stack.pods.remove(running)
    assert_clean(stack, before)
