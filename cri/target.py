"""Which container a capture means, and what the CRI knows of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cri.proto import cri_pb2 as pb
from cri.rpc import RpcError, StatusCode
from cri.runtime_client import SyncRuntimeClient
from cri.store.refs import check_namespace, shown
from shim import container as running
from shim.container import ContainerRef
from shim.errors import PodthawError, Refused, Unfit

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
"""Labels that kubelet puts on every sandbox."""

_STATES: dict[int, str] = {
    pb.CONTAINER_CREATED: "was created and has not been started",
    pb.CONTAINER_EXITED: "has exited",
    pb.CONTAINER_UNKNOWN: "is in a state that containerd does not know",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running container, as the CRI and this node know it."""

    status: pb.ContainerStatus
    sandbox: pb.PodSandboxStatus
    image_id: str
    container: ContainerRef

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return self.sandbox.metadata.namespace

    @property
    def pod(self) -> str:
        """The pod's name."""
        return self.sandbox.metadata.name

    @property
    def name(self) -> str:
        """The container's name in the pod."""
        return self.status.metadata.name

    @property
    def addresses(self) -> list[str]:
        """The pod's IP addresses."""
        network = self.sandbox.network
        return [ip for ip in (network.ip, *(more.ip for more in network.additional_ips)) if ip]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}, container {self.name}"


def parse_pod(text: str) -> tuple[str, str]:
    """``NAMESPACE/POD`` as two; Refused when it is not that."""
    namespace, slash, pod = text.partition("/")
    if not slash or not pod or "/" in pod:
        raise Refused(f"{shown(text)} is not a pod: wanted NAMESPACE/POD")
    check_namespace(namespace)
    return namespace, pod


def by_name(cri: SyncRuntimeClient, namespace: str, pod: str, container: str | None) -> Target:
    """The running container of a pod; ``container`` may be None when there is only one.

    Raises Unfit when there is no such pod or container, or it does not run, and Refused when
    several run and none was named.
    """
    with _Sentences():
        selector = {POD_NAMESPACE: namespace, POD_NAME: pod}
        sandboxes = cri.list_pod_sandbox(pb.PodSandboxFilter(label_selector=selector))
        ready = [one for one in sandboxes if one.state == pb.SANDBOX_READY]
        if not ready:
            raise Unfit(_no_pod(cri, namespace, pod, gone=bool(sandboxes)))
        newest = max(ready, key=lambda one: one.created_at)
        containers = cri.list_containers(pb.ContainerFilter(pod_sandbox_id=newest.id))
        chosen = choose(containers, container, f"{namespace}/{pod}")
    return by_id(cri, chosen.id)


def choose(containers: Sequence[pb.Container], wanted: str | None, pod: str) -> pb.Container:
    """The one running container that is meant."""
    latest: dict[str, pb.Container] = {}
    for one in sorted(containers, key=lambda one: one.created_at):
        latest[one.metadata.name] = one
    running_ones = [one for one in latest.values() if one.state == pb.CONTAINER_RUNNING]
    if wanted is not None:
        found = latest.get(wanted)
        if found is None:
            names = ", ".join(sorted(latest)) or "none"
            raise Unfit(f"the pod {pod} has no container {shown(wanted)}; it has: {names}")
        if found.state != pb.CONTAINER_RUNNING:
            raise Unfit(f"the container {wanted} of the pod {pod} {_state(found.state)}")
        return found
    if not running_ones:
        raise Unfit(f"the pod {pod} has no running container")
    if len(running_ones) > 1:
        names = ", ".join(sorted(one.metadata.name for one in running_ones))
        raise Refused(f"the pod {pod} has several running containers, name one with -c: {names}")
    return running_ones[0]


def by_id(cri: SyncRuntimeClient, container_id: str) -> Target:
    """The running container with this id, which may be shortened as crictl does."""
    with _Sentences():
        answer = cri.container_status(container_id, verbose=True)
        status = answer.status
        if status.state != pb.CONTAINER_RUNNING:
            name = status.metadata.name
            raise Unfit(f"the container {name} ({container_id[:13]}) {_state(status.state)}")
        info = _info(answer)
        sandbox = cri.pod_sandbox_status(str(info.get("sandboxID", ""))).status
        image = cri.image_status(pb.ImageSpec(image=status.image_ref or status.image.image))
    pid = info.get("pid")
    bundle = running.bundle_of(pid, status.id) if isinstance(pid, int) else None
    return Target(
        status=status,
        sandbox=sandbox,
        image_id=image.image.id or status.image_id,
        container=running.find(status.id, bundle=bundle),
    )


def _info(answer: pb.ContainerStatusResponse) -> dict[str, object]:
    try:
        value = json.loads(answer.info["info"]) if "info" in answer.info else {}
    except ValueError:
        value = {}
    if not isinstance(value, dict) or "sandboxID" not in value:
        raise Unfit("containerd does not tell the pod of the container: wanted containerd 1.7+")
    return value


def _state(state: int) -> str:
    return _STATES.get(state, "is not running")


def _no_pod(cri: SyncRuntimeClient, namespace: str, pod: str, *, gone: bool) -> str:
    if gone:
        return f"the pod {namespace}/{pod} is not running on this node any more"
    selector = {POD_NAMESPACE: namespace}
    others = cri.list_pod_sandbox(pb.PodSandboxFilter(label_selector=selector))
    names = sorted({one.metadata.name for one in others})
    known = f"; in this namespace it has: {', '.join(names)}" if names else ""
    return f"there is no pod {namespace}/{pod} on this node{known}"


class _Sentences:
    """Turns containerd's errors into sentences."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RpcError):
            raise _sentence(error) from error
        if isinstance(error, OSError):
            raise Unfit(f"containerd cannot be reached: {error.strerror or error}") from error


def _sentence(error: RpcError) -> PodthawError:
    if error.code == StatusCode.NOT_FOUND:
        return Unfit(f"containerd has no such container: {error.message}")
    if error.code == StatusCode.DEADLINE_EXCEEDED:
        return Unfit(f"containerd does not answer: {error.message}")
    if error.code == StatusCode.UNAVAILABLE:
        return Unfit(f"containerd cannot be reached: {error.message}")
    return Unfit(f"containerd answered {error}")
