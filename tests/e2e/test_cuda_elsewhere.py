"""Another GPU on other nodes: cgroup v2, whose devices are allowed by eBPF, and containerd 1.7."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import StartNode
from tests.e2e.stack import Stack
from tests.fakegpu.node import Gpus, wait_for_steps

pytestmark = pytest.mark.node


@pytest.fixture(params=["cgroup2", "trixie"])
def stack(request: pytest.FixtureRequest, start_node: StartNode) -> Iterator[Stack]:
    if request.param == "trixie":
        node = start_node("trixie", name="n2")
    else:
        node = start_node(unified=True)
    node.install_podthaw()
    node.start_containerd()
    running = Stack(node)
    yield running
    running.close()
    node.stop()


def test_capture_and_restore_on_another_gpu(stack: Stack) -> None:
    gpus = Gpus(stack.node)
    first = stack.pods.start(gpus.pod("--children", "1"), ready=False)
    wait_for_steps(first, users=2)
    stack.capture(first, "elsewhere")
    wait_for_steps(first, users=2)
    with stack.leaves_nothing():
        asked = gpus.pod("--children", "1", gpus=(1,)).restoring("elsewhere", on_failure="fail")
        second = stack.pods.start(asked, ready=False)
        new = wait_for_steps(second, users=2)
        assert {step.gpu for step in new} == {gpus.all[1].uuid}
        assert min(step.number for step in new) > 1
        assert second.exec(["sh", "-c", ": < /dev/nvidia1"])[0] == 0
        assert second.exec(["ls", "/dev/nvidia0"])[0] != 0
        script = "mknod /tmp/old c 10 229; : < /tmp/old"  # the number of the GPU of the capture
        status, _, stderr = second.exec(["sh", "-c", script])
        assert status != 0
        assert "not permitted" in stderr
        stack.pods.remove(second)
