"""Reading ahead as calls begin and end it; what is read is in test_prefetcher.py."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cri import ahead
from cri import annotations as wishes
from cri.ahead import Ahead
from cri.prefetch.learning import Learner
from cri.prefetch.prefetcher import Limits, Pod, Prefetcher
from cri.proto import cri_pb2 as pb
from cri.rpc import RpcError, StatusCode
from shim import plan
from shim.plan import Result
from tests.unit.cri.daemon import SANDBOX, FakeCall, Node, sandbox_config

SMALL = {wishes.SNAPSHOT: "small"}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


class Wants:
    """Who wants what, instead of reading it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: set[tuple[Pod, str]] = set()
        self.log: list[str] = []
        wants = self

        def want(_: Prefetcher, pod: Pod, digest: str, folder: Path) -> None:
            assert (folder / "manifest.json").exists()
            wants.now.add((pod, digest))
            wants.log.append("want")

        def release(_: Prefetcher, pod: Pod, digest: str | None = None) -> None:
            gone = {one for one in wants.now if one[0] is pod and digest in (None, one[1])}
            wants.now -= gone
            wants.log += ["release"] * len(gone)

        monkeypatch.setattr(Prefetcher, "want", want)
        monkeypatch.setattr(Prefetcher, "release", release)

    @property
    def digests(self) -> list[str]:
        return [digest for _, digest in self.now]


@pytest.fixture
def wants(monkeypatch: pytest.MonkeyPatch) -> Wants:
    return Wants(monkeypatch)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def sandbox(annotations: dict[str, str], answer: bytes | RpcError | None = None) -> FakeCall:
    request = pb.RunPodSandboxRequest(config=sandbox_config(annotations))
    made = pb.RunPodSandboxResponse(pod_sandbox_id=SANDBOX).SerializeToString()
    return FakeCall("RunPodSandbox", request.SerializeToString(), answer or made)


def ask(node: Node, *calls: FakeCall) -> None:
    """Serve calls one after another by one daemon, which is not stopped."""

    async def work() -> None:
        for call in calls:
            with suppress(RpcError):
                await node.interceptor.hooks()[call.method](call)
            await node.interceptor._ahead.settle()
        await node.interceptor._keeper.settle()

    run(work())


def of_sandbox(method: str) -> FakeCall:
    message = getattr(pb, f"{method}Request")(pod_sandbox_id=SANDBOX)
    return FakeCall(method, message.SerializeToString(), b"")


class TestPods:
    def test_a_pod_that_asks_for_a_snapshot(self, node: Node, wants: Wants) -> None:
        digest = node.snapshot()
        ask(node, sandbox(SMALL))
        assert wants.digests == [digest]
        assert [pod.sandbox for pod, _ in wants.now] == [SANDBOX]

    @pytest.mark.parametrize(
        "annotations",
        [{}, {"example.com/a": "podthaw.dev/snapshot"}, {"podthaw.dev/snapshot": "other"}],
    )
    def test_one_that_does_not_or_for_one_that_is_not_there(
        self, node: Node, wants: Wants, annotations: dict[str, str]
    ) -> None:
        node.snapshot()
        ask(node, sandbox(annotations))
        assert wants.log == []

    def test_a_name_means_the_pods_own_namespace(self, node: Node, wants: Wants) -> None:
        node.snapshot(namespace="elsewhere")
        ask(node, sandbox(SMALL))
        assert wants.log == []

    def test_one_whose_containers_will_start_cold(self, node: Node, wants: Wants) -> None:
        node.snapshot()
        node.runtime.handlers = ["", "runc"]
        ask(node, sandbox(SMALL))
        assert wants.log == []

    def test_a_quarantined_snapshot(self, node: Node, wants: Wants) -> None:
        digest = node.snapshot()
        node.interceptor._decider.set_aside(digest, "default/web-0", "it broke")
        ask(node, sandbox(SMALL))
        assert wants.log == []

    @pytest.mark.parametrize("method", ["StopPodSandbox", "RemovePodSandbox"])
    def test_it_ends_with_the_pod(self, node: Node, wants: Wants, method: str) -> None:
        node.snapshot()
        ask(node, sandbox(SMALL), of_sandbox(method))
        assert wants.log == ["want", "release"]
        assert node.interceptor._ahead.sandboxes() == set()

    def test_it_ends_when_there_is_no_sandbox_after_all(self, node: Node, wants: Wants) -> None:
        node.snapshot()
        ask(node, sandbox(SMALL, RpcError(StatusCode.INTERNAL, "no address left")))
        assert wants.now == set()
        assert node.interceptor._ahead._pods == set()

    def test_it_ends_when_the_sandbox_vanished(self, node: Node, wants: Wants) -> None:
        node.snapshot()
        ask(node, sandbox(SMALL))
        run(node.interceptor.sweep())
        assert wants.log == ["want"]
        node.runtime.sandboxes = []
        run(node.interceptor.sweep())
        assert wants.log == ["want", "release"]

    def test_a_broken_store_holds_up_nothing(
        self, node: Node, wants: Wants, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(node.interceptor._decider, "look", fail)
        call = sandbox(SMALL)
        assert node.serve(call) == call.answer
        assert wants.log == []


class TestContainers:
    def create(self, node: Node, **request: Any) -> FakeCall:
        node.containers += 1
        answer = pb.CreateContainerResponse(container_id=node.container_id)
        return FakeCall(
            "CreateContainer", node.create_request(SMALL, **request), answer.SerializeToString()
        )

    def start(self, node: Node) -> FakeCall:
        request = pb.StartContainerRequest(container_id=node.container_id)
        return FakeCall("StartContainer", request.SerializeToString(), b"")

    def test_a_restore_soon_after_needs_nothing_new(self, node: Node, wants: Wants) -> None:
        node.snapshot()
        ask(node, sandbox(SMALL), self.create(node))
        assert wants.log == ["want"]

    def test_one_much_later_sees_to_it_again(
        self, node: Node, wants: Wants, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = node.snapshot()
        monkeypatch.setattr(ahead, "_FRESH", 0.0)
        ask(node, sandbox(SMALL), self.create(node))
        assert wants.log == ["want", "want"]
        assert wants.digests == [digest]

    def test_also_when_the_daemon_does_not_know_the_pod(self, node: Node, wants: Wants) -> None:
        digest = node.snapshot()
        ask(node, self.create(node))
        assert wants.digests == [digest]
        ask(node, of_sandbox("StopPodSandbox"))
        assert wants.digests == []

    def test_a_cold_start_needs_nothing(self, node: Node, wants: Wants) -> None:
        node.snapshot()
        node.runtime.image_id = "sha256:" + "2" * 64
        ask(node, sandbox(SMALL), self.create(node))
        assert wants.log == ["want", "release"]

    @pytest.mark.parametrize("outcome", ["restored", "cold"])
    def test_after_the_start(
        self, node: Node, wants: Wants, outcome: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        learned: list[str] = []

        async def learn(_: Learner, container: str, digest: str, folder: Path) -> None:
            assert folder == node.store.folder(digest)
            learned.append(container)

        monkeypatch.setattr(Learner, "learn", learn)
        node.snapshot()
        ask(node, sandbox(SMALL), self.create(node))
        call, gate = self.start(node), node.interceptor._ahead._prefetcher._gate
        forward = call.forward

        async def forwarded(request: bytes | None = None) -> bytes:
            assert gate.is_closed
            result = Result(outcome=outcome, container_id=node.container_id)
            plan.write_result(node.record().decision.id, result, node.options.run)
            return await forward(request)

        monkeypatch.setattr(call, "forward", forwarded)

        async def work() -> None:
            await node.interceptor.hooks()[call.method](call)
            await asyncio.gather(*node.interceptor._ahead._learning)

        run(work())
        assert not gate.is_closed
        assert learned == ([node.container_id] if outcome == "restored" else [])
        assert len(wants.now) == (outcome == "restored")


class TestStop:
    def test_what_runs_ends(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        """Learning is given up, and nothing is read after that."""
        digest = node.snapshot()
        learning = asyncio.Event()
        ended: list[str] = []

        async def learn(*_: object) -> None:
            learning.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("learning")

        monkeypatch.setattr(Learner, "learn", learn)

        async def work() -> None:
            mine = Ahead(node.interceptor._decider, node.options)
            with mine.expecting("default", ["small"]) as pod:
                mine.bind(pod, SANDBOX)
            mine._spawn(mine._learn("c", digest), mine._learning)
            await learning.wait()
            await asyncio.wait_for(mine.stop(), 5)
            assert mine._learning == set()
            assert mine._verifying == set()
            assert mine._prefetcher._running == {}

        run(work())
        assert ended == ["learning"]

    def test_settling_waits(self, node: Node, wants: Wants) -> None:
        digest = node.snapshot()

        async def work() -> None:
            mine = Ahead(node.interceptor._decider, node.options)
            with mine.expecting("default", ["small"]):
                pass
            await mine.settle()

        run(work())
        assert wants.digests == [digest]
        assert (node.options.state / "node" / "verified" / f"{digest[7:]}.json").exists()


def test_the_configuration_counts(tmp_path: Path) -> None:
    node = Node(tmp_path, ahead=Limits(mode="hot", bandwidth=5, memory=7))
    assert node.interceptor._ahead._prefetcher._limits == Limits(mode="hot", bandwidth=5, memory=7)
