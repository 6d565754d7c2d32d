from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from cri import annotations as wishes
from cri.annotations import Defaults
from cri.proto import cri_pb2 as pb
from cri.records import Exit
from cri.rpc import RpcError, StatusCode
from shim import plan
from shim.criu import images
from shim.criu.wire import Message
from shim.plan import Result
from tests.unit.cri import snapshots
from tests.unit.cri.daemon import RUNTIME, SANDBOX, FakeCall, Node, run, sandbox_config

SMALL = {wishes.SNAPSHOT: "small"}
STRICT = {**SMALL, wishes.ON_FAILURE: "fail"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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

    def test_an_opted_in_pod_of_another_handler_is_shown_byte_for_byte(self, node: Node) -> None:
        answer = pb.PodSandboxStatusResponse(
            status=pb.PodSandboxStatus(runtime_handler="kata", annotations=SMALL)
        ).SerializeToString()
        assert node.interceptor.filters()[RUNTIME + "PodSandboxStatus"](answer) is answer


class TestRestore:
    def test_the_plan_is_in_the_request_and_everything_else_is_as_it_was(self, node: Node) -> None:
        digest = node.snapshot()
        call = node.create(SMALL, command=["/serve"], args=["--model", "small"])
        order = node.plan(call)
        assert order is not None
        assert call.forwarded is not None
        sent = pb.CreateContainerRequest.FromString(call.forwarded)
        del sent.config.annotations[plan.PLAN_ANNOTATION]
        assert sent == pb.CreateContainerRequest.FromString(call.request)
        assert (order.snapshot, order.name, order.namespace) == (digest, "small", "default")
        assert (order.pod, order.pod_uid, order.sandbox_id) == ("web-1", "uid-1", SANDBOX)
        assert (order.container, order.attempt) == ("web", 0)
        assert (order.tcp, order.on_failure, order.restore_timeout) == ("close", "cold", 60.0)
        assert order.rootfs_diff == str(node.store.folder(digest) / "rootfs.tar")
        assert order.shm is None
        assert node.pins(digest) == [f"node-1.{order.id}"]
        assert node.record().outcome == "pending"

    def test_the_images_are_made_fit_for_this_pod(self, node: Node) -> None:
        digest = node.snapshot()
        order = node.plan(node.create(SMALL))
        assert order is not None
        made = Path(order.images)
        store = node.store.folder(digest) / "images"
        assert (made / "pages-1.img").readlink() == store / "pages-1.img"
        assert (made / "files.img").readlink() == store / "files.img"
        (names,) = images.decode((made / "utsns-9.img").read_bytes(), "u").entries
        (inventory,) = images.decode((made / "inventory.img").read_bytes(), "i").entries
        assert Message.parse(names.message).text(1) == "web-1"
        assert Message.parse(inventory.message).uint(11) == 2
        assert names_in(made) == names_in(store)
        assert "tcp-established" in (made.parent / "criu.conf").read_text()
        assert made.parent.stat().st_mode & 0o777 == 0o700

    def test_the_wish_of_one_container_is_not_the_others(self, node: Node) -> None:
        node.snapshot()
        asked = {wishes.SNAPSHOT + ".web": "small"}
        assert node.plan(node.create(asked)) is not None
        sidecar = node.create(asked, container="sidecar")
        assert sidecar.forwarded == sidecar.request

    def test_policies_come_from_the_pod_and_else_from_the_node(self, tmp_path: Path) -> None:
        node = Node(tmp_path, defaults=Defaults(on_failure="fail", tcp="established"))
        node.snapshot()
        silent = node.plan(node.create(SMALL))
        loud = node.plan(
            node.create({**SMALL, wishes.TCP: "close", wishes.ON_FAILURE: "cold"}, attempt=1)
        )
        assert silent is not None
        assert loud is not None
        assert (silent.tcp, silent.on_failure) == ("established", "fail")
        assert (loud.tcp, loud.on_failure) == ("close", "cold")

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

    def test_a_container_that_containerd_does_not_create_leaves_nothing(self, node: Node) -> None:
        digest = node.snapshot()
        call = FakeCall(
            "CreateContainer",
            node.create_request(SMALL),
            RpcError(StatusCode.INVALID_ARGUMENT, "no such image"),
        )
        with pytest.raises(RpcError, match="no such image"):
            node.serve(call)
        assert node.pins(digest) == []
        assert node.records.ids() == []

    def test_a_client_that_goes_away_leaves_nothing(self, node: Node) -> None:
        digest = node.snapshot()
        call = FakeCall("CreateContainer", node.create_request(SMALL), b"")

        async def work() -> None:
            call.held = True
            hook = node.interceptor.hooks()[call.method]
            task = asyncio.ensure_future(hook(call))
            await call.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await node.interceptor.stop()

        run(work())
        assert node.pins(digest) == []
        assert node.records.ids() == []

    @pytest.mark.parametrize("delay", [0.0, 0.002, 0.01])
    def test_a_client_that_goes_away_while_the_plan_is_made_leaves_nothing(
        self, node: Node, delay: float
    ) -> None:
        digest = node.snapshot()
        call = FakeCall("CreateContainer", node.create_request(SMALL), b"")

        async def work() -> None:
            call.held = True
            task = asyncio.ensure_future(node.interceptor.hooks()[call.method](call))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await node.interceptor.stop()

        run(work())
        assert node.pins(digest) == []
        assert node.records.ids() == []

    def test_nobody_can_bring_a_plan_of_his_own(self, node: Node) -> None:
        node.snapshot()
        for of_pod in (SMALL, {}):
            request = node.create_request(of_pod, annotations={plan.PLAN_ANNOTATION: "a" * 32})
            call = FakeCall("CreateContainer", request, b"")
            with pytest.raises(RpcError, match="Podthaw's own to set") as caught:
                node.serve(call)
            assert caught.value.code is StatusCode.INVALID_ARGUMENT
            assert call.forwarded is None


class TestColdStart:
    def is_cold(self, node: Node, call: FakeCall, reason: str, kind: str = "unfit") -> None:
        assert call.forwarded == call.request
        record = node.record()
        assert (record.outcome, record.decision.kind) == ("cold", kind)
        assert reason in record.reason
        assert names_in(node.records.folder(record.decision.id)) == [
            "container.json",
            "decision.json",
        ]

    def test_a_snapshot_that_is_not_there(self, node: Node) -> None:
        call = node.create(SMALL)
        self.is_cold(node, call, "there is no snapshot small in the namespace default")
        assert node.runtime.asked == []

    def test_a_snapshot_of_another_namespace(self, node: Node) -> None:
        node.snapshot(namespace="other")
        self.is_cold(node, node.create(SMALL), "no snapshot small in the namespace default")

    def test_a_store_that_is_not_there(self, node: Node) -> None:
        (node.folder / "store").rename(node.folder / "gone")
        self.is_cold(node, node.create(SMALL), "there is no snapshot store")

    def test_a_name_that_is_none(self, node: Node) -> None:
        call = node.create({wishes.SNAPSHOT: "../../etc"})
        self.is_cold(node, call, "is not a snapshot's name", kind="refused")

    def test_another_image(self, node: Node) -> None:
        digest = node.snapshot()
        node.runtime.image_id = "sha256:" + "2" * 64
        self.is_cold(node, node.create(SMALL), "made from another image")
        assert node.pins(digest) == []

    def test_another_command(self, node: Node) -> None:
        node.snapshot()
        call = node.create(SMALL, args=["--model", "large"])
        self.is_cold(node, call, "the snapshot holds another program")

    def test_a_command_that_containerd_does_not_tell_is_not_compared(self, node: Node) -> None:
        node.snapshot()
        node.runtime.image_info = {}
        assert node.plan(node.create(SMALL)) is not None

    def test_another_host(self, node: Node) -> None:
        node.snapshot(host=snapshots.HOST.__class__(**{**vars(snapshots.HOST), "criu": "9.9"}))
        self.is_cold(node, node.create(SMALL), "does not fit this host: wanted")

    def test_a_sandbox_of_another_runtime(self, node: Node) -> None:
        node.snapshot()
        node.runtime.handler = ""
        self.is_cold(node, node.create(SMALL), "runtime handler '', wanted one of podthaw")

    def test_a_containerd_that_does_not_answer(self, node: Node) -> None:
        node.snapshot()
        node.runtime.down = True
        self.is_cold(node, node.create(SMALL), "containerd did not answer a question")

    def test_a_snapshot_with_gpu_state(self, node: Node) -> None:
        node.snapshot(gpu=[{"uuid": "GPU-1"}])
        self.is_cold(node, node.create(SMALL), "holds GPU state")

    def test_an_unexpected_failure(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        node.snapshot()

        def bad(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("cri.fitness.check_image", bad)
        self.is_cold(node, node.create(SMALL), "Podthaw failed: ZeroDivisionError")

    def test_a_run_directory_that_cannot_be_written(self, node: Node) -> None:
        node.snapshot()
        (node.folder / "run").write_text("in the way")
        call = node.create(SMALL)
        assert call.forwarded == call.request

    def test_a_damaged_snapshot_is_quarantined(self, node: Node) -> None:
        digest = node.snapshot()
        path = node.store.folder(digest) / "images" / "utsns-9.img"
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1])
        self.is_cold(node, node.create(SMALL), "utsns-9.img was truncated", kind="broken")
        self.is_cold(node, node.create(SMALL), "broke on this node at")
        assert node.pins(digest) == []


class TestFail:
    @pytest.mark.parametrize(
        ("annotations", "reason"),
        [
            (STRICT, "podthaw: small was not restored: there is no snapshot small"),
            ({**STRICT, wishes.TCP: "x"}, "podthaw.dev/tcp is 'x', wanted close or established"),
            ({**STRICT, wishes.SNAPSHOT: "auto"}, "not yet supported"),
        ],
    )
    def test_the_start_fails_with_the_reason(
        self, node: Node, annotations: dict[str, str], reason: str
    ) -> None:
        call = FakeCall("CreateContainer", node.create_request(annotations), b"")
        for _ in range(3):
            with pytest.raises(RpcError, match=reason) as caught:
                node.serve(call)
            assert caught.value.code is StatusCode.FAILED_PRECONDITION
        assert call.forwarded is None
        (record,) = node.records.all()
        assert record.outcome == "failed"

    def test_containerds_error_of_a_failed_restore_reaches_kubelet_as_it_is(
        self, node: Node
    ) -> None:
        digest = node.snapshot()
        node.create(STRICT)
        error = RpcError(StatusCode.UNKNOWN, "OCI runtime create failed: podthaw: small was not …")
        result = Result(outcome="failed", container_id="c", kind="broken", reason="CRIU failed")
        assert node.start(result, error) is error
        assert node.record().outcome == "failed"
        assert node.pins(digest) == []


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


class TestCheckpointContainer:
    def request(self, location: str = "/tmp/x.tar", timeout: int = 0) -> bytes:
        return pb.CheckpointContainerRequest(
            container_id="c1", location=location, timeout=timeout
        ).SerializeToString()

    def capturing(self, tmp_path: Path, script: str) -> Node:
        program = tmp_path / "capture"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return Node(tmp_path, capture=[str(program)])

    def test_it_is_a_capture_into_the_place_that_was_asked_for(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, f'echo "$@" > {tmp_path}/arguments')
        call = FakeCall("CheckpointContainer", self.request(timeout=7), b"")
        assert node.serve(call) == b""
        assert call.forwarded is None
        assert (tmp_path / "arguments").read_text().split() == [
            "--container-id",
            "c1",
            "--export",
            "/tmp/x.tar",
            "--timeout",
            "7s",
        ]

    def test_the_last_line_of_a_failure_is_the_message(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, "echo one >&2; echo 'podthaw: it is paused' >&2; exit 1")
        with pytest.raises(RpcError) as caught:
            node.serve(FakeCall("CheckpointContainer", self.request(), b""))
        assert caught.value.message == "podthaw: it is paused"
        assert caught.value.code is StatusCode.FAILED_PRECONDITION

    def test_a_failure_without_words_still_says_something(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, "exit 3")
        with pytest.raises(RpcError, match="the capture ended with status 3"):
            node.serve(FakeCall("CheckpointContainer", self.request(), b""))

    def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        node = Node(tmp_path, capture=[str(tmp_path / "none")])
        with pytest.raises(RpcError, match="cannot be run: No such file"):
            node.serve(FakeCall("CheckpointContainer", self.request(), b""))

    def test_a_relative_location_is_refused(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, "exit 0")
        with pytest.raises(RpcError, match="must be an absolute path, found 'x'"):
            node.serve(FakeCall("CheckpointContainer", self.request("x"), b""))

    def test_a_caller_that_goes_away_ends_the_capture(self, tmp_path: Path) -> None:
        script = (
            f"trap 'touch {tmp_path}/ended; exit 1' TERM; touch {tmp_path}/began\n"
            "while :; do sleep 0.05; done"
        )
        node = self.capturing(tmp_path, script)
        call = FakeCall("CheckpointContainer", self.request(), b"")

        async def work() -> None:
            task = asyncio.ensure_future(node.interceptor.hooks()[call.method](call))
            while not (tmp_path / "began").exists():  # noqa: ASYNC110 - a file tells
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(work())
        assert (tmp_path / "ended").exists()
