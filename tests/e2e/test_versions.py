"""The core path with each containerd: 1.7 (trixie), 2.1 (sid) and the newest 2.x."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import StartNode
from tests.e2e.conftest import WEB
from tests.e2e.pods import eventually
from tests.e2e.stack import Stack, is_cold
from tests.node import cache, debian, images
from tests.node.container import CACHE
from tests.node.node import Node

pytestmark = pytest.mark.node


# CRIU 4.1, which is trixie's, cannot dump internet sockets on Linux 6.16 and newer; and the kernel
# is the test machine's. So a newer CRIU is carried along, with its libraries.
CARRY = """
set -e; mkdir -p /opt/sid
tar -x -C /opt/sid -f "$1" --wildcards \\
    ./usr/sbin/criu './usr/lib/*-linux-gnu/*.so*' './usr/lib*/ld-*'
libraries=$(dirname /opt/sid/usr/lib/*/libc.so.6)
loader=$(find /opt/sid/usr/lib* -name 'ld-linux*' | head -n 1)
printf '#!/bin/sh\\nexec %s --library-path %s /opt/sid/usr/sbin/criu "$@"\\n' \
    "$loader" "$libraries" > /usr/local/bin/criu
chmod 755 /usr/local/bin/criu
criu --version
"""


def newer_criu(node: Node) -> None:
    """Give a node sid's CRIU."""
    tree = debian.tree("sid", images.NODE_PACKAGES)
    node.exec(["sh", "-c", CARRY, "sh", f"{CACHE}/{tree.relative_to(cache.root())}"])


@pytest.fixture(scope="module", params=["trixie", "newest"])  # sid is the suite's own node
def stack(request: pytest.FixtureRequest, start_node: StartNode) -> Iterator[Stack]:
    """A node of the flavour."""
    node = start_node(request.param)
    if request.param == "trixie":
        newer_criu(node)
    node.install_podthaw()
    node.start_containerd()
    running = Stack(node)
    yield running
    running.close()
    node.stop()


def test_core_path(stack: Stack) -> None:
    ordinary = stack.pods.start(WEB)
    assert is_cold(ordinary)
    stack.capture(ordinary, "core")
    with stack.leaves_nothing():
        restored = stack.pods.start(WEB.restoring("core", on_failure="fail"))
        assert not is_cold(restored)
        identity = restored.get("/identity")
        assert identity["hostname"] == restored.hostname
        assert restored.ip in identity["addresses"]
        restored.get("/print?text=hello")
        assert eventually(lambda: restored.log() == "hello")
        assert restored.exec(["true"])[0] == 0
        stats = stack.cri.ask("ContainerStats", container_id=restored.id())["stats"]
        assert int(stats["memory"]["working_set_bytes"]["value"]) > 0
        stack.cri.ask("StopContainer", container_id=restored.id(), timeout=20)
        assert restored.wait_exit()["exit_code"] == 7
        stack.pods.remove(restored)
    fallback = stack.pods.start(WEB.restoring("absent"))
    assert is_cold(fallback)


def test_checkpoint_call(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    stack.cri.ask(
        "CheckpointContainer", container_id=pod.id(), location="/var/lib/podthaw/c.tar", timeout=60
    )
    names = stack.node.exec(["tar", "-tf", "/var/lib/podthaw/c.tar"]).stdout.split()
    assert "config.dump" in names
    assert pod.get("/ready") == "ready"
