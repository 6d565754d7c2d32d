"""Under a real kubelet with static pods: what it does with a restored container, and shows."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.e2e import netns
from tests.e2e.pods import PORT, WORKLOADS
from tests.e2e.stack import Stack
from tests.e2e.websocket import STDIN, STDOUT, Stream
from tests.node import images
from tests.node.node import PROXY_SOCKET, Node

pytestmark = pytest.mark.node

NAMESPACE = "e2e"


def manifest(name: str, annotations: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A static pod of the workload's server, with one probe of each kind."""
    container = {
        "name": "main",
        "image": images.PYTHON,
        "imagePullPolicy": "Never",
        "command": ["/usr/bin/python3", "-B", "-u", "-m", "workloads.runner", "none"],
        "env": [{"name": "PYTHONPATH", "value": "/opt"}],
        "volumeMounts": [
            {"name": "workloads", "mountPath": WORKLOADS, "readOnly": True},
            {"name": "empty", "mountPath": "/volume"},
        ],
        "startupProbe": {
            "exec": {"command": ["test", "-f", "/var/tmp/ready"]},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "readinessProbe": {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "lifecycle": {
            "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo prestop > /proc/1/fd/1"]}}
        },
        "resources": {"requests": {"memory": "64Mi", "cpu": "50m"}, "limits": {"memory": "256Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations or {}},
        "spec": {
            "containers": [container | more],
            "volumes": [
                {"name": "workloads", "hostPath": {"path": WORKLOADS}},
                {"name": "empty", "emptyDir": {}},
            ],
            "terminationGracePeriodSeconds": 10,
        },
    }


class Kube:
    """Static pods of one node's kubelet."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.node: Node = stack.node
        self.node.start_kubelet(f"unix://{PROXY_SOCKET}")
        self.manifests: dict[str, dict[str, Any]] = {}

    def add(self, name: str, snapshot: str = "", **more: Any) -> str:
        """Add a pod and wait until it is ready; its full name."""
        annotations = {"podthaw.dev/snapshot": snapshot} if snapshot else {}
        described = manifest(name, annotations, **more)
        full = self.node.add_static_pod(described)
        self.manifests[full] = described
        self.wait(full, self.is_ready)
        return full

    def remove(self, full: str) -> None:
        """Remove a pod and wait until it is gone."""
        self.node.remove_static_pod(self.manifests.pop(full))
        # Kubelet's list forgets it at once; the runtime knows when it has ended.
        query = {"label_selector": {"io.kubernetes.pod.name": full}}

        def ended() -> bool:
            found = self.stack.cri.ask("ListPodSandbox", filter=query)["items"]
            return all(one["state"] != "SANDBOX_READY" for one in found)

        self.node.wait(f"end of {full}", ended, timeout=40)

    def close(self) -> None:
        """Remove all pods; end kubelet."""
        for full in list(self.manifests):
            self.remove(full)
        self.node.kill("kubelet")

    def container(self, full: str) -> dict[str, Any]:
        """The status of the pod's container."""
        statuses = self.node.pods().get(full, {}).get("status", {}).get("containerStatuses", [])
        return dict(statuses[0]) if statuses else {}

    def is_ready(self, full: str) -> bool:
        """Whether the pod's container is ready."""
        return bool(self.container(full).get("ready"))

    def wait(self, full: str, condition: Callable[[str], object], timeout: float = 60) -> None:
        """Until a condition of a pod holds."""
        self.node.wait(f"{condition} of {full}", lambda: condition(full), timeout=timeout)

    def ip(self, full: str) -> str:
        """The pod's address."""
        return str(self.node.pods()[full]["status"]["podIP"])

    def get(self, full: str, path: str) -> Any:
        """Ask the pod's server."""
        return netns.get(self.node.pid, self.ip(full), PORT, path)[1]

    def logs(self, full: str, query: str = "") -> list[str]:
        """The container's log by kubelet's API."""
        path = f"/containerLogs/{NAMESPACE}/{full}/main{query}"
        return self.node.kubelet(path).decode().splitlines()

    def stream(self, path: str) -> Stream:
        """A streaming call of kubelet's API."""
        insecure = ssl._create_unverified_context()  # noqa: S323 - its own certificate
        plain = socket.create_connection((self.node.ip, 10250), timeout=15)
        secure = insecure.wrap_socket(plain)
        return Stream(secure, f"https://{self.node.ip}:10250{path}", "v4.channel.k8s.io")


@pytest.fixture(scope="module")
def kube(stack: Stack) -> Iterator[Kube]:
    """Kubelet behind the proxy."""
    running = Kube(stack)
    yield running
    running.close()


@pytest.fixture(scope="module")
def cold(kube: Kube) -> str:
    """An ordinary pod, captured as ``kube``."""
    full = kube.add("cold")
    kube.stack.podthaw("capture", f"{NAMESPACE}/{full}", "--name", "kube")
    return full


@pytest.fixture(scope="module")
def restored(kube: Kube, cold: str) -> str:
    """A pod that is restored."""
    del cold
    return kube.add("restored", "kube")


@pytest.fixture(scope="module", params=["cold", "restored"])
def full(request: pytest.FixtureRequest) -> str:
    """The one and the other."""
    name: str = request.getfixturevalue(request.param)
    return name


def test_it_was_restored(kube: Kube, cold: str, restored: str) -> None:
    assert kube.logs(cold)[0] == "first line"
    assert "first line" not in kube.logs(restored)
    assert kube.ip(cold) != kube.ip(restored)


def test_status(kube: Kube, full: str) -> None:
    status = kube.container(full)
    assert (status["ready"], status["started"], status["restartCount"]) == (True, True, 0)
    assert "running" in status["state"]


def test_logs(kube: Kube, full: str) -> None:
    kube.get(full, "/print?text=by-kubelet")
    kube.node.wait("the log", lambda: kube.logs(full)[-1:] == ["by-kubelet"], timeout=10)
    assert kube.logs(full, "?tailLines=1") == ["by-kubelet"]


def test_exec(kube: Kube, full: str) -> None:
    command = ["sh", "-c", "read x; echo $x; exit 4"]
    query = urlencode(
        [
            *(("command", word) for word in command),
            *dict.fromkeys(("input", "output", "error"), "1").items(),
        ]
    )
    with kube.stream(f"/exec/{NAMESPACE}/{full}/main?{query}") as stream:
        stream.send(STDIN, b"typed\n")
        stream.drain()
        assert stream.received[STDOUT] == b"typed\n"
        assert stream.status["details"]["causes"][0]["message"] == "4"


def test_attach(kube: Kube, full: str) -> None:
    with kube.stream(f"/attach/{NAMESPACE}/{full}/main?output=1&error=1") as stream:
        kube.get(full, "/print?text=attached")
        stream.read_until(STDOUT, b"attached")


def test_port_forward(kube: Kube, full: str) -> None:
    with kube.stream(f"/portForward/{NAMESPACE}/{full}?port={PORT}") as stream:
        stream.send(0, b"GET /ready HTTP/1.0\r\n\r\n")
        assert b"200 OK" in stream.read_until(0, b'"ready"')


def test_stats(kube: Kube, full: str) -> None:
    def counted() -> bool:
        # /stats/summary wants to know a disk, which the node's container does not show.
        text = kube.node.kubelet("/metrics/resource").decode()
        names = ("container_memory_working_set_bytes", "container_cpu_usage_seconds_total")
        found = [
            re.search(rf'^{name}{{[^}}]*pod="{full}"[^}}]*}} (\S+)', text, re.MULTILINE)
            for name in names
        ]
        return all(one and float(one[1]) > 0 for one in found)

    kube.node.wait("stats", counted, timeout=30, every=0.5)


def test_readiness_follows_the_program(kube: Kube, full: str) -> None:
    kube.get(full, "/health?set=503")
    kube.wait(full, lambda name: not kube.is_ready(name), timeout=20)
    kube.get(full, "/health?set=200")
    kube.wait(full, kube.is_ready, timeout=20)
    assert kube.container(full)["restartCount"] == 0


def test_checkpoint_api(kube: Kube, full: str) -> None:
    answer = json.loads(kube.node.kubelet(f"/checkpoint/{NAMESPACE}/{full}/main", method="POST"))
    (path,) = answer["items"]
    names = kube.node.exec(["tar", "-tf", path]).stdout.split()
    assert {"config.dump", "spec.dump", "checkpoint/inventory.img"} <= set(names)
    kube.node.exec(["rm", path])
    assert kube.get(full, "/ready") == "ready"


def restarted(kube: Kube, full: str, count: int) -> dict[str, Any]:
    """The status when the container has been restarted so often and is ready again."""
    kube.wait(
        full,
        lambda name: kube.container(name).get("restartCount") == count and kube.is_ready(name),
        timeout=60,
    )
    return kube.container(full)


def test_restart_by_restore_then_cold(kube: Kube, cold: str) -> None:
    del cold
    full = kube.add("failing", "kube")
    _end(kube, full)
    status = restarted(kube, full, 1)
    assert status["lastState"]["terminated"]["exitCode"] == 9
    assert kube.logs(full) == []
    _end(kube, full)
    restarted(kube, full, 2)
    # Twice within a minute: the ordinary way, with the program's first line.
    assert kube.logs(full)[0] == "first line"
    kube.remove(full)


def _end(kube: Kube, full: str) -> None:
    """Make the program exit with 9."""
    kube.get(full, "/exit?code=9")
    time.sleep(0.2)


def test_out_of_memory(kube: Kube, cold: str) -> None:
    del cold
    full = kube.add("hungry", "kube")
    with contextlib.suppress(OSError):
        kube.get(full, "/allocate?mib=600")
    status = restarted(kube, full, 1)
    assert status["lastState"]["terminated"]["reason"] == "OOMKilled"
    kube.remove(full)


def test_failed_liveness_restarts_it(kube: Kube, cold: str) -> None:
    del cold
    probe = {
        "httpGet": {"path": "/health", "port": PORT},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    full = kube.add("ailing", "kube", livenessProbe=probe)
    kube.get(full, "/health?set=503")
    restarted(kube, full, 1)
    assert "first line" not in kube.logs(full)
    kube.remove(full)


def test_stop_runs_the_hook_and_the_handler(kube: Kube, cold: str) -> None:
    del cold
    full = kube.add("leaving", "kube")
    pod = kube.node.pods()[full]
    uid = pod["metadata"]["annotations"].get("kubernetes.io/config.hash", pod["metadata"]["uid"])
    kept = "/var/log/kept.log"
    log = f"/var/log/pods/{NAMESPACE}_{full}_{uid}/main/0.log"
    kube.node.exec(["ln", "-f", log, kept])
    kube.remove(full)
    lines = [line.split(" ", 3)[-1] for line in kube.node.read(kept).decode().splitlines()]
    assert lines[-2:] == ["prestop", "ending on SIGTERM"]
