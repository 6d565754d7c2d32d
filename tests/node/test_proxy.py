"""The proxy before real containerds, asked by grpc's C core and by a real kubelet."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest

from tests.node import images
from tests.node.node import CONTAINERD_SOCKET, FLAVOURS, PIDS, PROXY_SOCKET, Node

pytestmark = [
    pytest.mark.node,
    pytest.mark.parametrize("node", FLAVOURS, indirect=True),
]

OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@pytest.fixture
def proxied(node: Node) -> Iterator[Node]:
    node.start_proxy()
    yield node
    node.kill("proxy")


Seen = tuple[grpc.StatusCode, str | None, bytes]


def ask(channel: grpc.Channel, method: str, request: bytes = b"", *, wait: bool = False) -> Seen:
    """All that a client can see of a call."""
    service = "ImageService" if "Image" in method else "RuntimeService"
    ask_for: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        f"/runtime.v1.{service}/{method}"
    )
    call = ask_for.future(request, timeout=30, wait_for_ready=wait)
    code = call.code()
    return code, call.details(), call.result() if code is grpc.StatusCode.OK else b""


def both(node: Node) -> tuple[grpc.Channel, grpc.Channel]:
    sockets = (CONTAINERD_SOCKET, PROXY_SOCKET)
    one, two = (grpc.insecure_channel(node.endpoint(path), options=OPTIONS) for path in sockets)
    return one, two


def test_containerd_says_the_same_directly_and_through_the_proxy(proxied: Node) -> None:
    nobody = b"\n\x04none"  # field 1, a text: the id in most requests
    requests = [
        ("Version", b""),
        ("Status", b""),
        ("RuntimeConfig", b""),
        ("ListContainers", b""),
        ("ListPodSandbox", b""),
        ("ListImages", b""),
        ("ImageStatus", b""),
        ("ContainerStatus", nobody),
        ("PodSandboxStatus", nobody),
        ("StartContainer", nobody),
        ("StopContainer", nobody),
        ("RemoveContainer", nobody),
        ("CreateContainer", nobody),
        ("RunPodSandbox", b""),
        ("ContainerStats", nobody),
        ("NoSuchCall", b""),
        ("Version", b"\xff\xff\xff"),
        ("CreateContainer", bytes((16 << 20) + 1)),
        ("ListContainers", bytes((16 << 20) + 1)),
    ]
    direct, relayed = both(proxied)
    with direct, relayed:
        for method, request in requests:
            # containerd lists in no fixed order, and what it says may change meanwhile.
            for _ in range(5):
                seen = [ask(channel, method, request) for channel in (direct, relayed)]
                if seen[0] == seen[1]:
                    break
            assert seen[0] == seen[1], method


def test_a_pod_that_did_not_opt_in_lives_as_ever(proxied: Node) -> None:
    with proxied.cri(PROXY_SOCKET) as cri, cri.run_pod("plain") as pod:
        container = pod.run("main", images.BUSYBOX, ["sh", "-c", "echo hello; exec sleep 99"])
        assert container.exec("hostname").stdout == "plain\n"
        assert proxied.read(container.log).endswith(b"stdout F hello\n")


def test_the_proxy_outlives_containerd(proxied: Node) -> None:
    direct, relayed = both(proxied)
    with direct, relayed:
        assert ask(relayed, "Version")[0] is grpc.StatusCode.OK
        proxied.stop_containerd()
        for channel in (direct, relayed):
            assert ask(channel, "Version")[0] is grpc.StatusCode.UNAVAILABLE
        proxied.start_containerd()
        for channel in (direct, relayed):
            assert ask(channel, "Version", wait=True)[0] is grpc.StatusCode.OK


def test_kubelet_runs_pods_through_the_proxy_and_the_proxy_stays_small(proxied: Node) -> None:
    proxied.start_kubelet(f"unix://{PROXY_SOCKET}")
    try:
        _running(proxied, "before")
        proxied.restart_containerd()
        _running(proxied, "after")
        proxied.kill("proxy")
        proxied.start_proxy()
        _running(proxied, "again")
        pid = proxied.exec(["cat", f"{PIDS}/proxy.pid"]).stdout.strip()
        status = proxied.exec(["cat", f"/proc/{pid}/status"]).stdout
        (resident,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        assert int(resident.split()[1]) <= 40 * 1024, resident
    finally:
        proxied.kill("kubelet")


def _running(node: Node, name: str) -> None:
    """Gives kubelet a static pod and waits until it runs."""
    container = {
        "name": "main",
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sleep", "999"],
    }
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    pod = node.add_static_pod(manifest)
    deadline = time.monotonic() + 120
    while node.pods().get(pod, {}).get("status", {}).get("phase") != "Running":
        assert time.monotonic() < deadline, f"{pod} does not run"
        time.sleep(1)
    node.remove_static_pod(manifest)


def test_the_socket_is_roots(proxied: Node) -> None:
    mode = proxied.exec(["stat", "-c", "%a %U", PROXY_SOCKET]).stdout
    assert mode == "600 root\n"
