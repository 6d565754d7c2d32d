from __future__ import annotations

import json
from typing import Any, cast

import pytest

from cri import target
from cri.proto import cri_pb2 as pb
from cri.rpc import RpcError, StatusCode
from cri.runtime_client import SyncRuntimeClient
from shim import container as running
from shim.errors import PodthawError, Refused, Unfit


class Cri:
    """Containerd as far as a capture asks it: made-up pods."""

    def __init__(self) -> None:
        self.sandboxes: list[pb.PodSandbox] = []
        self.containers: list[pb.Container] = []
        self.info: dict[str, object] = {"sandboxID": "s1", "pid": 1}
        self.error: Exception | None = None

    def list_pod_sandbox(self, wanted: pb.PodSandboxFilter) -> list[pb.PodSandbox]:
        if self.error:
            raise self.error
        labels = dict(wanted.label_selector)
        return [one for one in self.sandboxes if labels.items() <= dict(one.labels).items()]

    def list_containers(self, wanted: pb.ContainerFilter) -> list[pb.Container]:
        return [one for one in self.containers if one.pod_sandbox_id == wanted.pod_sandbox_id]

    def container_status(self, name: str, *, verbose: bool) -> pb.ContainerStatusResponse:
        assert verbose
        found = [one for one in self.containers if one.id == name]
        if not found:
            raise RpcError(StatusCode.NOT_FOUND, "no such container")
        status = pb.ContainerStatus(id=name, metadata=found[0].metadata, state=found[0].state)
        return pb.ContainerStatusResponse(status=status, info={"info": json.dumps(self.info)})

    def pod_sandbox_status(self, name: str) -> pb.PodSandboxStatusResponse:
        assert name == "s1"
        return pb.PodSandboxStatusResponse(
            status=pb.PodSandboxStatus(
                id="s1",
                metadata=pb.PodSandboxMetadata(name="web-0", namespace="shop"),
                network=pb.PodSandboxNetworkStatus(
                    ip="10.0.0.5", additional_ips=[pb.PodIP(ip="fd00::5")]
                ),
            )
        )

    def image_status(self, image: pb.ImageSpec) -> pb.ImageStatusResponse:
        return pb.ImageStatusResponse(image=pb.Image(id=f"sha256:{image.image}"))

    def add(self, name: str, state: int = pb.CONTAINER_RUNNING, attempt: int = 0) -> None:
        self.containers.append(
            pb.Container(
                id=f"{name}-{attempt}",
                pod_sandbox_id="s1",
                metadata=pb.ContainerMetadata(name=name, attempt=attempt),
                state=cast("Any", state),
                created_at=attempt,
            )
        )


@pytest.fixture
def cri() -> Cri:
    made = Cri()
    labels = {target.POD_NAMESPACE: "shop", target.POD_NAME: "web-0"}
    for name, state, created in (("s0", 1, 1), ("s1", 0, 2)):
        made.sandboxes.append(
            pb.PodSandbox(
                id=name,
                labels=labels,
                state=cast("Any", state),
                created_at=created,
                metadata=pb.PodSandboxMetadata(name="web-0"),
            )
        )
    return made


def find(cri: Cri, pod: str = "web-0", container: str | None = None) -> target.Target:
    return target.by_name(cast("SyncRuntimeClient", cri), "shop", pod, container)


def test_a_pod_is_written_with_its_namespace() -> None:
    assert target.parse_pod("shop/web-0") == ("shop", "web-0")
    for text in ("web-0", "a/b/c", "/web", "shop/", "UPPER/web", "../x/y"):
        with pytest.raises(Refused):
            target.parse_pod(text)


def test_the_only_container(cri: Cri, monkeypatch: pytest.MonkeyPatch) -> None:
    cri.add("main", pb.CONTAINER_EXITED, 0)
    cri.add("main", pb.CONTAINER_RUNNING, 1)
    found = []
    monkeypatch.setattr(running, "find", lambda name, bundle: found.append((name, bundle)))
    result = find(cri)
    assert found == [("main-1", None)]
    assert (result.namespace, result.pod, result.name) == ("shop", "web-0", "main")
    assert result.addresses == ["10.0.0.5", "fd00::5"]
    assert str(result) == "shop/web-0, container main"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (None, "has several running containers, name one with -c: one, two"),
        ("three", "the container three of the pod shop/web-0 has exited"),
        ("four", "has no container 'four'; it has: one, three, two"),
        ("new", "was created and has not been started"),
    ],
)
def test_several_containers(cri: Cri, wanted: str | None, words: str) -> None:
    cri.add("one")
    cri.add("two")
    cri.add("three", pb.CONTAINER_EXITED)
    if wanted == "new":
        cri.add("new", pb.CONTAINER_CREATED)
    with pytest.raises(PodthawError, match=words):
        find(cri, container=wanted)


def test_no_container_runs(cri: Cri) -> None:
    with pytest.raises(Unfit, match="has no running container"):
        find(cri)


def test_absent_pods(cri: Cri) -> None:
    with pytest.raises(
        Unfit, match="no pod shop/api-0 on this node; in this namespace it has: web"
    ):
        find(cri, "api-0")
    cri.sandboxes.pop()
    with pytest.raises(Unfit, match="is not running on this node any more"):
        find(cri)
    cri.sandboxes.clear()
    with pytest.raises(Unfit, match=r"no pod shop/web-0 on this node$"):
        find(cri)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RpcError(StatusCode.UNAVAILABLE, "no socket"), "cannot be reached: no socket"),
        (RpcError(StatusCode.INTERNAL, "odd"), "containerd answered INTERNAL: odd"),
        (ConnectionRefusedError(111, "Connection refused"), "cannot be reached"),
    ],
)
def test_a_containerd_that_does_not_answer(cri: Cri, error: Exception, words: str) -> None:
    cri.error = error
    with pytest.raises(Unfit, match=words):
        find(cri)


def test_by_id(cri: Cri) -> None:
    client = cast("SyncRuntimeClient", cri)
    with pytest.raises(Unfit, match="no such container"):
        target.by_id(client, "absent")
    cri.add("main", pb.CONTAINER_EXITED)
    with pytest.raises(Unfit, match=r"the container main .* has exited"):
        target.by_id(client, "main-0")
    cri.add("old")
    cri.info = {}
    with pytest.raises(Unfit, match="does not tell the pod"):
        target.by_id(client, "old-0")
