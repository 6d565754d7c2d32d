"""What real programs have shown (tests/programs), with small ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import WEB
from tests.e2e.pods import Container, Pod
from tests.e2e.stack import Stack, is_cold

pytestmark = pytest.mark.node

MPTCP = "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)"
"""Programs in Go listen with it wherever the kernel lets them."""

ON_VOLUME = """
import time
print("first line", flush=True)
file = open("/volume/data", "a+")
file.write("content\\n" if file.tell() == 0 else "")
file.flush()
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.mark.skipif(
    not Path("/proc/sys/net/mptcp/enabled").exists(), reason="this kernel has no Multipath TCP"
)
def test_an_annotated_pod_has_plain_tcp(stack: Stack) -> None:
    plain = stack.pods.start(WEB)
    assert plain.exec(["python3", "-c", MPTCP])[0] == 0
    annotated = stack.pods.start(WEB.restoring("absent"))
    assert is_cold(annotated)
    status, _, err = annotated.exec(["python3", "-c", MPTCP])
    assert status == 1
    assert "Protocol not available" in err


def test_a_file_that_the_volume_lacks_is_named_and_no_fault_of_the_snapshot(stack: Stack) -> None:
    pod = Pod(name="volume", containers=[Container(args=("-c", ON_VOLUME))])
    first = stack.pods.start(pod, ready=False)
    stack.node.wait("the program", lambda: "ready" in first.log())
    captured = stack.capture(first, "volume")
    assert "the content of the volume /volume is not part of the snapshot" in captured.stderr

    without = stack.pods.start(pod.restoring("volume"), ready=False)
    stack.node.wait("the cold start", lambda: is_cold(without))
    assert "that was open at the capture is missing: /volume/data" in stack.node.logs("proxy")

    asking = pod.restoring("volume", on_failure="fail")
    with_it = stack.pods.sandbox(asking)
    stack.node.write(f"{with_it.home}/volume/data", "content\n")
    stack.pods.create(with_it, asking.containers[0])
    stack.pods.start_container(with_it, "main")
    assert with_it.status()["state"] == "CONTAINER_RUNNING"
    assert not is_cold(with_it)
