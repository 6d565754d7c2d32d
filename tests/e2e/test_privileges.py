"""A snapshot brings memory and files back, never what the request does not give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.e2e.conftest import WEB
from tests.e2e.pods import Pod
from tests.e2e.stack import Stack, is_cold

pytestmark = pytest.mark.node

SHARED = "/var/lib/shared"


def with_mount(**mount: Any) -> Pod:
    """WEB with one more volume."""
    wanted = {"container_path": "/shared", "host_path": SHARED, **mount}
    return replace(WEB, containers=[replace(WEB.containers[0], mounts=[wanted])])


@pytest.fixture(scope="module")
def writable(stack: Stack) -> str:
    """A snapshot of a container that may write to a volume."""
    stack.node.exec(["mkdir", "-p", SHARED])
    pod = stack.pods.start(with_mount())
    stack.capture(pod, "writable")
    stack.pods.remove(pod)
    return "writable"


def reason(stack: Stack, pod: Pod) -> str:
    """Why a pod does not start; with on-failure cold it starts cold."""
    assert is_cold(stack.pods.start(replace(pod, annotations=cold(pod))))
    running, error = stack.pods.try_start(pod)
    assert error, f"restored: {running.log()}"
    return error


def cold(pod: Pod) -> dict[str, str]:
    return {k: v for k, v in pod.annotations.items() if k != "podthaw.dev/on-failure"}


def test_the_same_volume_again(stack: Stack, writable: str) -> None:
    pod = stack.pods.start(with_mount().restoring(writable, on_failure="fail"))
    assert not is_cold(pod)
    assert pod.exec(["touch", "/shared/x"])[0] == 0


def test_a_volume_that_is_read_only_now(stack: Stack, writable: str) -> None:
    asked = with_mount(readonly=True).restoring(writable, on_failure="fail")
    error = reason(stack, asked)
    assert "/shared is rw" in error
    assert "ro" in error


def test_a_volume_that_propagates_mounts_now(stack: Stack, writable: str) -> None:
    asked = with_mount(propagation="PROPAGATION_HOST_TO_CONTAINER")
    assert "propagation" in reason(stack, asked.restoring(writable, on_failure="fail"))


def test_a_volume_more(stack: Stack, web: str, writable: str) -> None:
    del writable
    assert "/shared" in reason(stack, with_mount().restoring(web, on_failure="fail"))


@pytest.mark.parametrize("kind", ["network", "ipc"])
def test_the_nodes_own_namespaces(stack: Stack, web: str, kind: str) -> None:
    """A restore would give the node the host name, or the IPC limits, of the snapshot."""
    before = stack.node.exec(["sh", "-c", "hostname; sysctl kernel.sem"]).stdout
    error = reason(stack, replace(WEB, nodes=[kind]).restoring(web, on_failure="fail"))
    assert "namespaces" in error
    assert "node's" in error
    assert stack.node.exec(["sh", "-c", "hostname; sysctl kernel.sem"]).stdout == before


def test_what_the_oom_killer_goes_by_is_the_requests(stack: Stack, web: str) -> None:
    resources = {"oom_score_adj": 950}
    asked = replace(WEB, containers=[replace(WEB.containers[0], resources=resources)])
    pod = stack.pods.start(asked.restoring(web, on_failure="fail"))
    assert not is_cold(pod)
    assert pod.exec(["cat", "/proc/1/oom_score_adj"])[1].strip() == "950"
