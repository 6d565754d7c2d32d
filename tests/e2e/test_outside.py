"""The oracle from outside: what kubelet and users do with a container, ordinary and restored."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e import netns
from tests.e2e.conftest import WEB
from tests.e2e.pods import PORT, Pod, Running, eventually
from tests.e2e.stack import Stack, is_cold
from tests.e2e.websocket import ERROR, STDERR, STDIN, STDOUT, Stream

pytestmark = pytest.mark.node

MIB = 1 << 20
KINDS = ("cold", "restored")


def start(stack: Stack, web: str, kind: str, pod: Pod = WEB) -> Running:
    """The same pod, ordinary or restored from the snapshot."""
    running = stack.pods.start(pod.restoring(web, on_failure="fail") if kind == "restored" else pod)
    assert is_cold(running) == (kind == "cold"), running.log()
    return running


@pytest.fixture(scope="module", params=KINDS)
def pod(request: pytest.FixtureRequest, stack: Stack, web: str) -> Iterator[Running]:
    """A pod for the tests that do not end it."""
    running = start(stack, web, request.param)
    running.kept = True
    yield running
    stack.pods.remove(running)


def streaming(stack: Stack, method: str, protocol: str, **request: Any) -> Stream:
    """Call Exec, Attach or PortForward, and follow the address that it answers with."""
    url = stack.cri.ask(method, **request)["url"]
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    connection = netns.connect(stack.node.pid, parts.hostname, parts.port, timeout=15)
    return Stream(connection, url, protocol)


# -- reading ---------------------------------------------------------------------------------


def test_state(pod: Running) -> None:
    status = pod.status()
    assert status["state"] == "CONTAINER_RUNNING"
    assert status["metadata"]["name"] == "main"
    assert int(status["started_at"]) >= int(status["created_at"]) > 0


def test_logs_go_on(pod: Running) -> None:
    pod.get("/print?text=to-stdout")
    pod.get("/print?text=to-stderr&stream=stderr")
    assert eventually(lambda: "to-stderr" in pod.log())
    lines = pod.log().splitlines()
    assert lines[-2:] == ["to-stdout", "to-stderr"]
    raw = pod.pods.node.read(f"{pod.log_directory}/main/0.log").decode().splitlines()
    assert [line.split()[1:3] for line in raw[-2:]] == [["stdout", "F"], ["stderr", "F"]]


def test_log_of_a_restored_container_begins_after_the_restore(stack: Stack, web: str) -> None:
    running = start(stack, web, "restored")
    running.get("/print?text=first-after")
    assert eventually(lambda: running.log() == "first-after"), running.log()


def test_log_rotation(pod: Running) -> None:
    path = f"{pod.log_directory}/main/0.log"
    pod.pods.node.exec(["mv", path, f"{path}.old"])
    pod.pods.cri.ask("ReopenContainerLog", container_id=pod.id())
    pod.get("/print?text=after-rotation")
    assert eventually(lambda: pod.log() == "after-rotation"), pod.log()


def test_stats(pod: Running) -> None:
    stats = pod.pods.cri.ask("ContainerStats", container_id=pod.id())["stats"]
    assert int(stats["cpu"]["usage_core_nano_seconds"]["value"]) > 0
    # Memory that is mapped and was not written is the page cache's, and counts once on the node.
    assert int(stats["memory"]["working_set_bytes"]["value"]) > MIB
    listed = pod.pods.cri.ask("ListContainerStats", filter={"id": pod.id()})["stats"]
    assert len(listed) == 1


def test_listed_as_an_ordinary_container(pod: Running) -> None:
    listed = pod.pods.cri.ask("ListContainers", filter={"id": pod.id()})["containers"]
    assert [one["state"] for one in listed] == ["CONTAINER_RUNNING"]
    sandboxes = pod.pods.cri.ask("ListPodSandbox", filter={"id": pod.sandbox})["items"]
    # Kubelet compares it with what it asked for.
    assert [one.get("runtime_handler", "") for one in sandboxes] == [""]
    status = pod.pods.cri.ask("PodSandboxStatus", pod_sandbox_id=pod.sandbox)["status"]
    assert status.get("runtime_handler", "") == ""


# -- streaming -------------------------------------------------------------------------------


def test_exec_sync(pod: Running) -> None:
    status, out, err = pod.exec(["sh", "-c", "hostname; echo wrong >&2; exit 5"])
    assert (status, out.strip(), err.strip()) == (5, pod.hostname, "wrong")


def test_exec_sees_the_new_pod(pod: Running) -> None:
    _, environ, _ = pod.exec(["env"])
    assert f"POD_UID={pod.uid}" in environ
    _, table, _ = pod.exec(["cat", "/etc/hosts"])
    assert pod.uid in table
    _, processes, _ = pod.exec(["cat", "/proc/1/cmdline"])
    assert "workloads.runner" in processes


def test_exec_stream_with_input(stack: Stack, pod: Running) -> None:
    with streaming(
        stack,
        "Exec",
        "v4.channel.k8s.io",
        container_id=pod.id(),
        cmd=["sh", "-c", "read line; echo got $line; exit 3"],
        stdin=True,
        stdout=True,
        stderr=True,
    ) as stream:
        stream.send(STDIN, b"some input\n")
        stream.drain()
        assert stream.received[STDOUT] == b"got some input\n"
        assert stream.received[STDERR] == b""
        causes = stream.status["details"]["causes"]
        assert [cause["message"] for cause in causes] == ["3"]


def test_attach(stack: Stack, pod: Running) -> None:
    with streaming(
        stack,
        "Attach",
        "v4.channel.k8s.io",
        container_id=pod.id(),
        stdout=True,
        stderr=True,
    ) as stream:
        pod.get("/print?text=to-the-attached")
        assert b"to-the-attached" in stream.read_until(STDOUT, b"to-the-attached")
        assert stream.received[ERROR] == b""


def test_port_forward(stack: Stack, pod: Running) -> None:
    with streaming(
        stack, "PortForward", "v4.channel.k8s.io", pod_sandbox_id=pod.sandbox, port=[PORT]
    ) as stream:
        stream.send(0, b"GET /ready HTTP/1.0\r\n\r\n")
        # Each stream begins with the port's number, two bytes.
        answer = stream.read_until(0, b'"ready"')
        assert b"200 OK" in answer


# -- resources -------------------------------------------------------------------------------


def limits_of(pod: Running, stack: Stack) -> dict[str, int]:
    """The container's limits as the kernel has them."""
    script = r"""
import json, sys
from pathlib import Path
out = {}
paths = {}
for line in Path(f"/proc/{sys.argv[1]}/cgroup").read_text().splitlines():
    number, names, path = line.split(":", 2)
    for name in names.split(","):
        paths[name] = path
base = Path("/sys/fs/cgroup")
if (base / "cgroup.controllers").exists():
    top = base / paths[""].lstrip("/")
    quota, period = (top / "cpu.max").read_text().split()
    out = {"memory": (top / "memory.max").read_text(), "quota": quota,
           "pids": (top / "pids.max").read_text()}
else:
    mem = base / "memory" / paths["memory"].lstrip("/")
    cpu = base / "cpu" / paths["cpu"].lstrip("/")
    out = {"memory": (mem / "memory.limit_in_bytes").read_text(),
           "quota": (cpu / "cpu.cfs_quota_us").read_text()}
print(json.dumps({k: v.strip() for k, v in out.items()}))
"""
    pid = json.loads(pod.status(verbose=True)["info"]["info"])["pid"]
    value: dict[str, str] = json.loads(stack.node.exec(["python3", "-c", script, str(pid)]).stdout)
    return {key: int(number) for key, number in value.items() if number != "max"}


def limited(memory: int, quota: int) -> Pod:
    """WEB with limits."""
    resources = {
        "memory_limit_in_bytes": memory,
        "cpu_quota": quota,
        "cpu_period": 100_000,
    }
    return replace(WEB, containers=[replace(WEB.containers[0], resources=resources)])


@pytest.mark.parametrize("kind", KINDS)
def test_limits_are_the_requests_and_can_be_resized(stack: Stack, web: str, kind: str) -> None:
    # The snapshot was taken without limits: these come from the request alone.
    running = start(stack, web, kind, limited(300 * MIB, 50_000))
    assert limits_of(running, stack) | {"pids": 0} == {
        "memory": 300 * MIB,
        "quota": 50_000,
        "pids": 0,
    }
    stack.cri.ask(
        "UpdateContainerResources",
        container_id=running.id(),
        linux={"memory_limit_in_bytes": 400 * MIB, "cpu_quota": 80_000, "cpu_period": 100_000},
    )
    assert limits_of(running, stack) | {"pids": 0} == {
        "memory": 400 * MIB,
        "quota": 80_000,
        "pids": 0,
    }


# -- the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_graceful_stop_with_the_programs_status(stack: Stack, web: str, kind: str) -> None:
    running = start(stack, web, kind)
    stack.cri.ask("StopContainer", container_id=running.id(), timeout=20)
    status = running.wait_exit()
    assert (status["exit_code"], status["reason"]) == (7, "Error")
    assert running.log().splitlines()[-1] == "ending on SIGTERM"


@pytest.mark.parametrize("kind", KINDS)
def test_exit_by_itself(stack: Stack, web: str, kind: str) -> None:
    running = start(stack, web, kind)
    running.get("/exit?code=42")
    status = running.wait_exit()
    assert (status["exit_code"], status["reason"]) == (42, "Error")
    assert int(status["finished_at"]) >= int(status["started_at"])


@pytest.mark.parametrize("kind", KINDS)
def test_killed_after_the_grace_period(stack: Stack, web: str, kind: str) -> None:
    running = start(stack, web, kind)
    stack.cri.ask("StopContainer", container_id=running.id(), timeout=0)
    assert running.wait_exit()["exit_code"] == 137


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_memory_is_reported(stack: Stack, web: str, kind: str) -> None:
    running = start(stack, web, kind, limited(100 * MIB, 0))
    with contextlib.suppress(OSError, AssertionError):
        running.get("/allocate?mib=400")
    status = running.wait_exit()
    assert (status["exit_code"], status["reason"]) == (137, "OOMKilled")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays(stack: Stack, web: str, kind: str) -> None:
    with stack.leaves_nothing():
        stack.pods.remove(start(stack, web, kind))
