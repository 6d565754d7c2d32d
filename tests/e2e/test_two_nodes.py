"""Two nodes that share one store restore each other's snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartNode
from tests.e2e.conftest import WEB
from tests.e2e.stack import Stack, is_cold

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def nodes(start_node: StartNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stack]]:
    """Two nodes with one directory as their store."""
    store = tmp_path_factory.mktemp("store")
    stacks = []
    for name in ("n1", "n2"):
        node = start_node("sid", name=name, store=str(store))
        node.install_podthaw()
        node.start_containerd()
        stacks.append(Stack(node))
    yield stacks
    for stack in stacks:
        stack.close()
        stack.node.stop()


def test_each_restores_the_others_snapshot(nodes: list[Stack]) -> None:
    for one, other, name in ((nodes[0], nodes[1], "from-1"), (nodes[1], nodes[0], "from-2")):
        original = one.pods.start(WEB)
        one.capture(original, name)
        restored = other.pods.start(WEB.restoring(name, on_failure="fail"))
        assert not is_cold(restored)
        assert restored.get("/identity")["hostname"] == restored.hostname
        assert name in other.podthaw("list").stdout


def test_pins_of_the_other_node_count(nodes: list[Stack]) -> None:
    one, other = nodes
    one.capture(one.pods.start(WEB), "pinned")
    directory = one.snapshot("e2e/pinned")
    user = other.pods.sandbox(WEB.restoring("pinned", on_failure="fail"))
    other.pods.create(user, WEB.containers[0])
    one.podthaw("remove", "e2e/pinned", check=False)
    one.podthaw("gc", check=False)
    assert one.node.exec(["test", "-d", directory], check=False).status == 0
    other.pods.start_container(user, "main")
    user.wait_ready()
    assert not is_cold(user)


def test_a_quarantine_is_the_nodes_own(nodes: list[Stack]) -> None:
    from tests.e2e.damage import tamper

    one, other = nodes
    one.capture(one.pods.start(WEB), "doubtful")
    path = f"{one.snapshot('e2e/doubtful')}/images/inventory.img"
    good = one.node.exec(["sh", "-c", f"base64 {path}"]).stdout
    tamper(one, "e2e/doubtful", "open(f'{here}/images/inventory.img', 'ab').write(b'x')")
    assert is_cold(one.pods.start(WEB.restoring("doubtful")))
    one.node.exec(["sh", "-c", f"base64 -d > {path}"], input=good)
    assert is_cold(one.pods.start(WEB.restoring("doubtful")))
    assert not is_cold(other.pods.start(WEB.restoring("doubtful")))


def test_store_directory_is_clean(nodes: list[Stack], tmp_path: Path) -> None:
    del tmp_path
    for stack in nodes:
        assert stack.node.exec(["ls", "-A", "/var/lib/podthaw/store/tmp"]).stdout == ""
