from __future__ import annotations

from pathlib import Path

import pytest

from cri import annotations as wishes
from cri.rpc import RpcError
from tests.unit.cri.daemon import FakeCall, Node

SMALL = {wishes.SNAPSHOT: "small"}
STRICT = {**SMALL, wishes.ON_FAILURE: "fail"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


class TestWhichContainerIsMeant:
    def test_the_one_that_was_captured_and_not_an_init_container(self, node: Node) -> None:
        digest = node.snapshot()
        init = node.create(SMALL, container="init", command=["/migrate"])
        assert init.forwarded == init.request
        assert node.pins(digest) == []
        assert node.records.all() == []
        assert node.plan(node.create(SMALL)) is not None

    def test_an_init_container_does_not_fail_a_strict_pod(self, node: Node) -> None:
        node.snapshot()
        init = node.create(STRICT, container="init", command=["/migrate"])
        assert init.forwarded == init.request

    def test_under_another_name_the_one_that_runs_the_same(self, node: Node) -> None:
        node.snapshot()
        assert node.plan(node.create(SMALL, container="server")) is not None
        twin = node.create(SMALL, container="twin")
        assert twin.forwarded == twin.request
        assert node.plan(node.create(SMALL, container="server", attempt=1)) is not None

    def test_a_name_in_the_annotation_goes_before_the_name_in_the_snapshot(
        self, node: Node
    ) -> None:
        node.snapshot()
        asked = {wishes.SNAPSHOT + ".server": "small", wishes.ON_FAILURE: "fail"}
        assert node.plan(node.create(asked, container="server")) is not None
        call = FakeCall(
            "CreateContainer",
            node.create_request(asked, container="server", command=["/other"]),
            b"",
        )
        with pytest.raises(RpcError, match="the snapshot holds another program"):
            node.serve(call)
