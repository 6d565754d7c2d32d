from __future__ import annotations

from pathlib import Path

import pytest

from cri import annotations as wishes
from cri.proto import cri_pb2 as pb
from tests.unit.cri.daemon import RUNTIME, FakeCall, Node, sandbox_config

SMALL = {wishes.SNAPSHOT: "small"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def run_sandbox(node: Node, annotations: dict[str, str], handler: str = "") -> bytes:
    """What containerd is sent for RunPodSandbox."""
    request = pb.RunPodSandboxRequest(
        config=sandbox_config(annotations), runtime_handler=handler
    ).SerializeToString()
    call = FakeCall("RunPodSandbox", request, b"\x0a\x01x")
    assert node.serve(call) == b"\x0a\x01x"
    assert call.forwarded is not None
    return call.forwarded


class TestPodsThatDidNotOptIn:
    def test_their_calls_pass_byte_for_byte_and_nothing_is_asked_or_written(
        self, node: Node
    ) -> None:
        # Fields in an order that no serializer would choose, and one of a later CRI.
        odd = b"\x82\x20\x01x" + node.create_request({"example.com/a": "b"})
        for method in node.interceptor.hooks():
            name = method.removeprefix(RUNTIME)
            if name == "CheckpointContainer":
                continue
            request = odd if name == "CreateContainer" else b"\x0a\x03abc\x82\x20\x01x"
            call = FakeCall(name, request, b"\x0a\x01x")
            assert node.serve(call) == b"\x0a\x01x"
            assert call.forwarded == request
        assert node.runtime.asked == []
        assert not (node.folder / "run").exists()

    def test_their_answers_are_the_same_objects(self, node: Node) -> None:
        listed = pb.ListPodSandboxResponse(
            items=[pb.PodSandbox(id="a", runtime_handler="podthaw", annotations={"x": "y"})]
        ).SerializeToString()
        for rewrite in node.interceptor.filters().values():
            assert rewrite(listed) is listed

    def test_a_slip_of_the_pen_is_warned_of_and_the_pod_passes(
        self, node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        annotations = {"podthaw.dev/snapshots": "small"}
        request = pb.RunPodSandboxRequest(config=sandbox_config(annotations))
        assert run_sandbox(node, annotations) == request.SerializeToString()
        assert "did you mean podthaw.dev/snapshot?" in caplog.text
        assert node.plan(node.create(annotations)) is None
        assert node.runtime.asked == []


class TestRunPodSandbox:
    @pytest.mark.parametrize(("asked", "sent"), [("", "podthaw"), ("podthaw", "podthaw")])
    def test_the_runtime_handler_becomes_ours(self, node: Node, asked: str, sent: str) -> None:
        request = pb.RunPodSandboxRequest.FromString(run_sandbox(node, SMALL, asked))
        assert request.runtime_handler == sent
        assert request.config == sandbox_config(SMALL)

    def test_a_handler_that_nobody_stands_in_for_stays(
        self, node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        request = pb.RunPodSandboxRequest.FromString(run_sandbox(node, SMALL, "kata"))
        assert request.runtime_handler == "kata"
        assert "Podthaw stands in for no runtime handler 'kata'" in caplog.text

    def test_a_runtime_that_containerd_does_not_have_is_not_asked_for(
        self, node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        node.runtime.handlers = ["", "runc"]
        request = pb.RunPodSandboxRequest.FromString(run_sandbox(node, SMALL))
        assert request.runtime_handler == ""
        assert "containerd has no runtime 'podthaw'" in caplog.text

    @pytest.mark.parametrize("silent", ["down", "old"])
    def test_a_containerd_that_does_not_tell_its_handlers_is_trusted(
        self, node: Node, silent: str
    ) -> None:
        node.runtime.down, node.runtime.handlers = silent == "down", []
        request = pb.RunPodSandboxRequest.FromString(run_sandbox(node, SMALL))
        assert request.runtime_handler == "podthaw"

    def test_the_snapshot_is_verified_meanwhile(self, node: Node) -> None:
        digest = node.snapshot()
        run_sandbox(node, SMALL)
        assert (node.options.state / "node" / "verified" / f"{digest[7:]}.json").exists()

    def test_a_fields_that_this_version_does_not_know_survive(self, node: Node) -> None:
        request = pb.RunPodSandboxRequest(config=sandbox_config(SMALL)).SerializeToString()
        call = FakeCall("RunPodSandbox", request + b"\x82\x20\x01x", b"")
        node.serve(call)
        assert call.forwarded is not None
        assert call.forwarded.endswith(b"\x82\x20\x01x")


class TestGarbage:
    def test_a_request_that_is_no_message_is_containerds_to_judge(self, node: Node) -> None:
        garbage = b"\x0a\xffpodthaw.dev/snapshot"
        for method in node.interceptor.hooks():
            call = FakeCall(method.removeprefix(RUNTIME), garbage, b"\xff")
            assert node.serve(call) == b"\xff"
            assert call.forwarded == garbage

    def test_an_answer_that_is_no_message_passes(self, node: Node) -> None:
        garbage = b"\x0a\xffpodthaw.dev/snapshot"
        for rewrite in node.interceptor.filters().values():
            assert rewrite(garbage) is garbage
