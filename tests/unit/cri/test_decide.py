from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cri import annotations as wishes
from cri import decide
from cri.gpus import Gpu
from cri.proto import cri_pb2 as pb
from cri.rpc import RpcError
from shim.errors import Broken, Unfit
from shim.snapshot import Manifest
from tests.unit.cri.daemon import FakeCall, Node
from tests.unit.cri.gpu_records import GIB, gpu
from tests.unit.shim.test_worker import manifest

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


class TestGpus:
    """GPUs of a snapshot are matched with this host's; ``one`` at capture was of another node."""

    ONE = gpu(9, used=10 * GIB)

    @pytest.fixture(autouse=True)
    def host(self, monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
        here = [gpu(0, model="NVIDIA A100"), gpu(1), gpu(2)]
        monkeypatch.setattr("cri.gpus.read", lambda: here)
        return here

    def test_the_plan_has_the_map_and_the_numbers_of_the_gpus(self, node: Node) -> None:
        node.snapshot(gpu=[asdict(self.ONE)])
        order = node.plan(node.create(SMALL))
        assert order is not None
        assert order.cuda == "driver"
        assert order.gpu_map == {self.ONE.uuid: ""}  # the request of this test tells no GPU
        assert order.gpus == {str(number): gpu(number).uuid for number in range(3)}

    def test_a_snapshot_without_gpu_asks_nobody(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cri.gpus.read", None)
        node.snapshot()
        order = node.plan(node.create(SMALL))
        assert order is not None
        assert (order.cuda, order.gpu_map, order.gpus) == ("", {}, {})

    def test_the_gpu_of_the_request(self) -> None:
        kept = _of(gpu=[asdict(self.ONE)])
        match = decide.match_gpus(kept, _asks("GPU-00000002"))
        assert match.pairs == {self.ONE.uuid: gpu(2).uuid}
        with pytest.raises(Unfit, match="found 'NVIDIA A100'"):
            decide.match_gpus(kept, _asks("GPU-00000000"))

    def test_two_by_their_positions(self) -> None:
        kept = _of(gpu=[asdict(gpu(7)), asdict(gpu(8))])
        match = decide.match_gpus(kept, _asks("GPU-00000002,GPU-00000001"))
        assert match.pairs == {gpu(7).uuid: gpu(1).uuid, gpu(8).uuid: gpu(2).uuid}
        with pytest.raises(Unfit, match="wants 2 GPUs, found 1 GPU"):
            decide.match_gpus(kept, _asks("GPU-00000001"))

    def test_no_gpu_of_this_host_fits(self, host: list[Gpu]) -> None:
        kept = _of(gpu=[asdict(self.ONE)])
        assert decide.match_gpus(kept, _asks("")).pairs == {self.ONE.uuid: ""}
        host[1:] = [gpu(1, free=GIB)]
        with pytest.raises(Unfit, match=r"wanted 10\.0 GiB of free memory, found 1\.0 GiB"):
            decide.match_gpus(kept, _asks(""))
        host.clear()
        with pytest.raises(Unfit, match="NVML finds none on this host"):
            decide.match_gpus(kept, _asks(""))

    def test_a_damaged_record(self) -> None:
        with pytest.raises(Broken, match="GPU that cannot be read"):
            decide.match_gpus(_of(gpu=[{"uuid": "GPU-1"}]), _asks(""))


def _of(gpu: list[dict[str, Any]]) -> Manifest:
    """A manifest; of it only the GPUs are looked at."""
    return replace(manifest(), gpu=gpu)


def _asks(visible: str) -> pb.ContainerConfig:
    variable = pb.KeyValue(key="NVIDIA_VISIBLE_DEVICES", value=visible)
    return pb.ContainerConfig(envs=[variable])
