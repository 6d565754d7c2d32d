from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from cri import annotations as wishes
from cri.proto import cri_pb2 as pb
from cri.quarantine import Quarantine
from cri.records import Exit
from cri.rpc import RpcError, StatusCode
from shim import plan
from shim.plan import Result
from tests.unit.cri.daemon import SANDBOX, FakeCall, Node, run

SMALL = {wishes.SNAPSHOT: "small"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


class TestLifetime:
    def test_what_the_wrapper_answers_is_recorded(
        self, node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        digest = node.snapshot()
        record = node.restored(SMALL)
        assert record.outcome == "restored"
        assert node.pins(digest) == [f"node-1.{record.decision.id}"]
        assert "default/web-1 container web was restored from small" in caplog.text
        fields: dict[str, Any] = caplog.records[-1].__dict__["fields"]
        assert (fields["outcome"], fields["digest"]) == ("restored", digest)

    def test_a_daemon_that_is_restarted_in_between_goes_on(self, node: Node) -> None:
        digest = node.snapshot()
        node.create(SMALL)
        node.restart()
        node.start(Result(outcome="cold", container_id="x", kind="broken", reason="CRIU failed"))
        assert node.record().outcome == "cold"
        assert node.pins(digest) == []

    def test_pins_and_plans_go_with_the_container_and_the_pod(self, node: Node) -> None:
        digest = node.snapshot()
        record = node.restored(SMALL)
        folder = node.records.folder(record.decision.id)
        node.runtime.exits[node.container_id] = (100.0, 0)
        request = pb.RemoveContainerRequest(container_id=node.container_id).SerializeToString()
        node.serve(FakeCall("RemoveContainer", request, b""))
        assert node.pins(digest) == []
        assert not (folder / "images").exists()
        slim = node.records.get(record.decision.id)
        assert slim is not None
        assert slim.exit == Exit(finished=100.0, code=0)
        sandbox = pb.RemovePodSandboxRequest(pod_sandbox_id=SANDBOX).SerializeToString()
        node.serve(FakeCall("RemovePodSandbox", sandbox, b""))
        assert not folder.exists()

    def test_a_stopped_pod_pins_nothing(self, node: Node) -> None:
        digest = node.snapshot()
        node.restored(SMALL)
        request = pb.StopPodSandboxRequest(pod_sandbox_id=SANDBOX).SerializeToString()
        node.serve(FakeCall("StopPodSandbox", request, b""))
        assert node.pins(digest) == []

    def test_a_pod_that_cannot_be_removed_keeps_what_it_has(self, node: Node) -> None:
        digest = node.snapshot()
        node.restored(SMALL)
        for method, field in (
            ("RemoveContainer", node.container_id),
            ("StopPodSandbox", SANDBOX),
            ("RemovePodSandbox", SANDBOX),
        ):
            request = pb.RemoveContainerRequest(container_id=field).SerializeToString()
            with pytest.raises(RpcError, match="busy"):
                node.serve(FakeCall(method, request, RpcError(StatusCode.INTERNAL, "busy")))
        assert len(node.pins(digest)) == 1
        assert node.records.folder(node.record().decision.id).is_dir()

    def test_pods_that_vanished_are_forgotten(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = node.snapshot()
        node.restored(SMALL)
        node.runtime.sandboxes = []
        run(node.interceptor.sweep())
        assert len(node.pins(digest)) == 1  # it may be that the sandbox does not show yet
        monkeypatch.setattr("cri.keeper._GRACE", -1.0)
        node.restart()
        run(node.interceptor.sweep())
        assert node.pins(digest) == []
        assert node.records.ids() == []

    def test_a_plan_that_was_never_finished_is_cleared_away(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stray = node.records.create("ab" * 16)
        run(node.interceptor.sweep())
        assert stray.is_dir()
        monkeypatch.setattr("cri.keeper._STRAY", -1.0)
        run(node.interceptor.sweep())
        assert not stray.exists()


class TestOutcomes:
    def test_a_snapshot_that_broke_is_not_tried_again(self, node: Node) -> None:
        digest = node.snapshot()
        node.create(SMALL)
        node.start(Result(outcome="cold", container_id="c", kind="broken", reason="CRIU failed"))
        assert node.pins(digest) == []
        assert not (node.records.folder(node.record().decision.id) / "images").exists()
        again = node.create(SMALL, attempt=1)
        assert again.forwarded == again.request
        assert "broke on this node" in node.record().reason
        assert "CRIU failed" in node.record().reason

    def test_a_snapshot_that_is_only_unfit_is(self, node: Node) -> None:
        node.snapshot()
        node.create(SMALL)
        node.start(Result(outcome="cold", container_id="c", kind="unfit", reason="other user"))
        assert node.plan(node.create(SMALL, attempt=1)) is not None

    def test_a_wrapper_that_was_not_asked_is_told_of(self, node: Node) -> None:
        digest = node.snapshot()
        node.create(SMALL)
        node.start(None)
        assert node.record().outcome == "cold"
        assert "without podthaw-runc" in node.record().reason
        assert node.pins(digest) == []

    def test_a_start_that_failed_before_the_wrapper_is_told_of(self, node: Node) -> None:
        node.snapshot()
        node.create(SMALL)
        node.start(None, RpcError(StatusCode.UNKNOWN, "no space left"))
        assert node.record().outcome == "failed"
        assert node.record().reason == "containerd did not start the container: no space left"

    def test_leftovers_that_cannot_be_read_do_not_hide_the_rest(
        self, node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def bad(_: str) -> list[str]:
            raise OSError(5, "Input/output error")

        node.snapshot()
        node.create(SMALL)
        monkeypatch.setattr("shim.restore.recover", bad)
        node.restart()
        assert "cannot be looked for: [Errno 5]" in caplog.text
        node.start(Result(outcome="restored", container_id="c"))
        assert node.record().concluded

    def test_a_daemon_that_stops_does_not_wait_for_a_start_that_may_never_end(
        self, node: Node
    ) -> None:
        node.snapshot()
        node.create(SMALL)

        async def work() -> float:
            await node.interceptor.start()
            began = asyncio.get_running_loop().time()
            await node.interceptor.stop()
            return asyncio.get_running_loop().time() - began

        assert run(work()) < 5
        assert node.record().outcome == "pending"

    def test_a_restore_that_ended_while_no_daemon_ran_has_its_consequences_once(
        self, node: Node
    ) -> None:
        digest = node.snapshot()
        node.create(SMALL)
        record = node.record()
        broken = Result(outcome="cold", container_id="c", kind="broken", reason="CRIU failed")
        plan.write_result(record.decision.id, broken, node.options.run)
        node.restart()
        quarantine = Quarantine(node.options.state)
        entry = quarantine.get(digest)
        assert entry is not None
        assert (entry.reason, entry.pod) == ("CRIU failed", "default/web-1")
        assert node.pins(digest) == []
        quarantine.release(digest)
        node.restart()
        assert quarantine.get(digest) is None

    def test_a_start_whose_caller_went_away_is_recorded_later(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node.snapshot()
        node.create(SMALL)
        record = node.record()
        request = pb.StartContainerRequest(container_id=node.container_id).SerializeToString()
        call = FakeCall("StartContainer", request, b"")
        monkeypatch.setattr("cri.keeper._POLL", 0.01)

        async def work() -> None:
            call.held = True
            task = asyncio.ensure_future(node.interceptor.hooks()[call.method](call))
            await call.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            result = Result(outcome="cold", container_id="c", kind="broken", reason="late")
            plan.write_result(record.decision.id, result, node.options.run)
            while not (node.records.folder(record.decision.id) / "concluded").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await node.interceptor.stop()

        run(work())
        again = node.create(SMALL, attempt=1)
        assert again.forwarded == again.request
        assert "late" in node.record().reason


class TestRestarts:
    def test_a_container_that_exits_is_restored_again(self, node: Node) -> None:
        node.snapshot()
        for attempt in range(3):
            node.restored(SMALL, attempt=attempt)
            node.runtime.exits[node.container_id] = (100.0 + attempt, 0)
        assert node.plan(node.create(SMALL, attempt=3)) is not None

    def test_after_a_second_failure_within_a_minute_it_starts_cold_and_stays_so(
        self, node: Node
    ) -> None:
        node.snapshot()
        node.restored(SMALL)
        node.runtime.exits[node.container_id] = (100.0, 1)
        node.restored(SMALL, attempt=1)
        node.runtime.exits[node.container_id] = (130.0, 1)
        for attempt in (2, 3):
            node.restart()
            call = node.create(SMALL, attempt=attempt)
            assert call.forwarded == call.request
            assert "failed twice within a minute" in node.record().reason

    def test_an_end_is_known_even_when_the_container_was_removed_first(self, node: Node) -> None:
        node.snapshot()
        for attempt in range(2):
            node.restored(SMALL, attempt=attempt)
            node.runtime.exits[node.container_id] = (100.0 + attempt, 1)
            request = pb.RemoveContainerRequest(container_id=node.container_id)
            node.serve(FakeCall("RemoveContainer", request.SerializeToString(), b""))
            node.runtime.exits.clear()
        call = node.create(SMALL, attempt=2)
        assert call.forwarded == call.request

    def test_the_history_of_a_container_does_not_grow_without_end(self, node: Node) -> None:
        node.snapshot()
        for attempt in range(9):
            node.restored(SMALL, attempt=attempt)
            node.runtime.exits[node.container_id] = (1000.0 * attempt + 1, 1)
            request = pb.RemoveContainerRequest(container_id=node.container_id)
            node.serve(FakeCall("RemoveContainer", request.SerializeToString(), b""))
        assert len(node.records.all()) == 5


def test_tidying_up_that_hangs_is_not_waited_for(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the containers of a pod could not be removed while a shared store is gone."""
    monkeypatch.setattr("cri.keeper.TIDY", 0.1)
    gone = threading.Event()

    async def test() -> None:
        keeper = node.interceptor._keeper

        def hangs() -> None:
            gone.wait(5)

        await keeper.quietly(hangs)
        assert "not waited for: it takes more than 0.1 s" in caplog.text
        gone.set()
        await keeper.settle()

        def times_out() -> None:
            raise TimeoutError(110, "Connection timed out")

        await keeper.quietly(times_out)
        assert "not waited for: Connection timed out" in caplog.text

    run(test())
