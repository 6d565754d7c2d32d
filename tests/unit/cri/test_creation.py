from __future__ import annotations

import asyncio
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from cri import annotations as wishes
from cri.annotations import Defaults
from cri.proto import cri_pb2 as pb
from cri.rpc import RpcError, StatusCode
from shim import plan
from shim.criu import images
from shim.criu.wire import Message
from shim.plan import Result
from tests.unit.cri import snapshots
from tests.unit.cri.daemon import SANDBOX, FakeCall, Node, run
from tests.unit.cri.gpu_records import gpu

SMALL = {wishes.SNAPSHOT: "small"}
STRICT = {**SMALL, wishes.ON_FAILURE: "fail"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
        for name in ("pages-1.img", "files.img"):
            assert (made / name).resolve() == store / name
            assert not (made / name).readlink().is_absolute()
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

    def test_an_image_that_is_not_there(self, node: Node) -> None:
        node.snapshot()
        node.runtime.image_id = ""
        self.is_cold(node, node.create(SMALL), "image 'example/web:1' is not on this node")

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

    def test_a_snapshot_with_gpu_state_where_there_is_no_gpu(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cri.gpus.read", list)
        node.snapshot(gpu=[asdict(gpu())])
        self.is_cold(node, node.create(SMALL), "NVML finds none on this host")

    def test_a_store_that_does_not_answer(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As one on a network that is gone: the container starts before kubelet gives up."""
        monkeypatch.setattr("cri.creation.PATIENCE", 0.2)
        gone = threading.Event()
        for place in ("resolve", "prepare"):
            digest = node.snapshot()
            with monkeypatch.context() as patch:
                patch.setattr(node.interceptor._decider, place, lambda *_: gone.wait(5))
                timer = threading.Timer(1.0, gone.set)  # so that the thread ends with the test
                timer.start()
                self.is_cold(node, node.create(SMALL), "not be read and checked within 0.2 s")
                timer.join()
            gone.clear()
            assert node.pins(digest) == []

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
            ({**STRICT, wishes.SNAPSHOT: ""}, "podthaw: '' was not restored"),
            ({**STRICT, wishes.SNAPSHOT: "a\nb"}, r"podthaw: 'a\\nb' was not restored"),
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
