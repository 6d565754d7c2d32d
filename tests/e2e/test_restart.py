"""Kubelet replaces a container that has ended: the replacement is restored too, once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.e2e.conftest import WEB
from tests.e2e.stack import Stack, is_cold

pytestmark = pytest.mark.node


def test_restored_again_then_cold(stack: Stack, web: str) -> None:
    running = stack.pods.start(WEB.restoring(web))
    container = WEB.containers[0]
    running.get("/exit?code=1")
    running.wait_exit()
    container = stack.pods.again(running, container)
    running.wait_ready()
    assert not is_cold(running, attempt=1)
    assert running.status()["metadata"]["attempt"] == 1
    running.get("/exit?code=1")
    running.wait_exit()
    # The second failure within a minute: the snapshot may be what makes it fail.
    container = stack.pods.again(running, container)
    running.wait_ready()
    assert is_cold(running, attempt=2)


def test_a_clean_end_is_no_failure(stack: Stack, web: str) -> None:
    running = stack.pods.start(WEB.restoring(web))
    container = WEB.containers[0]
    for attempt in (1, 2, 3):
        running.get("/exit?code=0")
        running.wait_exit()
        container = stack.pods.again(running, container)
        running.wait_ready()
        assert not is_cold(running, attempt=attempt)


def test_proxy_and_containerd_restart_under_a_restored_container(stack: Stack, web: str) -> None:
    running = stack.pods.start(WEB.restoring(web))
    stack.node.kill("proxy")
    assert running.get("/ready") == "ready"
    stack.node.restart_containerd()
    stack.node.start_proxy()
    stack.node.wait("the CRI", lambda: running.status()["state"] == "CONTAINER_RUNNING", timeout=20)
    assert running.get("/ready") == "ready"
    assert running.exec(["true"])[0] == 0
    running.get("/print?text=after-the-restarts")
    stack.node.wait("its log", lambda: running.log().endswith("after-the-restarts"), timeout=10)
    stack.cri.ask("StopContainer", container_id=running.id(), timeout=20)
    assert running.wait_exit()["exit_code"] == 7


def test_a_plan_made_before_the_proxys_restart_is_used_after_it(stack: Stack, web: str) -> None:
    running = stack.pods.sandbox(WEB.restoring(web))
    stack.pods.create(running, WEB.containers[0])
    stack.node.kill("proxy", signal="KILL")
    stack.node.start_proxy()
    stack.pods.start_container(running, "main")
    running.wait_ready()
    assert not is_cold(running)


def test_restored_and_captured_again(stack: Stack, web: str) -> None:
    """A snapshot of a restored container is as good as one of an ordinary one."""
    first = stack.pods.start(WEB.restoring(web))
    stack.capture(first, "second")
    second = stack.pods.start(WEB.restoring("second", on_failure="fail"))
    assert not is_cold(second)
    assert second.get("/identity")["hostname"] == second.hostname
    assert first.get("/ready") == "ready"


def test_several_containers(stack: Stack) -> None:
    """Of two containers of a pod, the annotated one is restored; then both; beside an init one."""
    main = replace(WEB.containers[0], name="main")
    side = replace(
        main,
        name="side",
        args=("-B", "-u", "-m", "workloads.runner", "--port", "8081", "none"),
        env={"SCRATCH": "/opt"},
    )
    init = replace(main, name="init", command=("/bin/sh", "-c"), args=("echo first line of init",))
    pod = replace(WEB, name="several", containers=[main, side])
    cold = stack.pods.start(pod)
    cold.wait_ready(port=8081)
    stack.capture(cold, "several-main", container="main")
    stack.capture(cold, "several-side", container="side")

    one = stack.pods.start(pod.restoring("several-side", container="side"))
    one.wait_ready(port=8081)
    assert [is_cold(one, name) for name in ("main", "side")] == [True, False]

    both = pod.restoring("several-side", container="side").restoring(
        "several-main", container="main"
    )
    running = stack.pods.sandbox(replace(both, containers=[init, main, side]))
    stack.pods.create(running, init)
    stack.pods.start_container(running, "init")
    assert running.wait_exit("init")["exit_code"] == 0
    for container in (main, side):
        stack.pods.create(running, container)
        stack.pods.start_container(running, container.name)
    running.wait_ready()
    running.wait_ready(port=8081)
    assert [is_cold(running, name) for name in ("init", "main", "side")] == [True, False, False]
