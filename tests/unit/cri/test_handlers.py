from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cri import annotations as wishes
from cri.handlers import Handlers
from cri.proto import cri_pb2 as pb
from tests.unit.cri.daemon import RUNTIME, Node

SMALL = {wishes.SNAPSHOT: "small"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


class TestAnswers:
    def test_the_handler_is_shown_as_it_was_asked_for(self, node: Node) -> None:
        ours: dict[str, Any] = {"runtime_handler": "podthaw", "annotations": SMALL}
        filters = node.interceptor.filters()
        status = filters[RUNTIME + "PodSandboxStatus"](
            pb.PodSandboxStatusResponse(status=pb.PodSandboxStatus(**ours)).SerializeToString()
        )
        listed = filters[RUNTIME + "ListPodSandbox"](
            pb.ListPodSandboxResponse(items=[pb.PodSandbox(**ours)] * 2).SerializeToString()
        )
        streamed = filters[RUNTIME + "StreamPodSandboxes"](
            pb.StreamPodSandboxesResponse(pod_sandboxes=[pb.PodSandbox(**ours)]).SerializeToString()
        )
        event = filters[RUNTIME + "GetContainerEvents"](
            pb.ContainerEventResponse(
                pod_sandbox_status=pb.PodSandboxStatus(**ours)
            ).SerializeToString()
        )
        shown = [
            pb.PodSandboxStatusResponse.FromString(status).status,
            *pb.ListPodSandboxResponse.FromString(listed).items,
            *pb.StreamPodSandboxesResponse.FromString(streamed).pod_sandboxes,
            pb.ContainerEventResponse.FromString(event).pod_sandbox_status,
        ]
        assert [one.runtime_handler for one in shown] == [""] * 5
        assert all(dict(one.annotations) == SMALL for one in shown)

    def test_of_several_handlers_with_one_of_ours_the_first_is_shown(self) -> None:
        handlers = Handlers({"": "podthaw", "runc": "podthaw"})
        assert handlers.replacement("runc") == handlers.replacement("") == "podthaw"
        answer = pb.PodSandboxStatusResponse(
            status=pb.PodSandboxStatus(runtime_handler="podthaw", annotations=SMALL)
        )
        shown = handlers.sandbox_status(answer.SerializeToString())
        assert pb.PodSandboxStatusResponse.FromString(shown).status.runtime_handler == ""

    def test_an_opted_in_pod_of_another_handler_is_shown_byte_for_byte(self, node: Node) -> None:
        answer = pb.PodSandboxStatusResponse(
            status=pb.PodSandboxStatus(runtime_handler="kata", annotations=SMALL)
        ).SerializeToString()
        assert node.interceptor.filters()[RUNTIME + "PodSandboxStatus"](answer) is answer
