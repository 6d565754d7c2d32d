"""Annotations, plans and stores written by someone who means harm, or who mistypes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.e2e.conftest import WEB
from tests.e2e.pods import Running
from tests.e2e.rpc import RpcError, reason
from tests.e2e.stack import RUN, STORE, Stack, is_cold

pytestmark = pytest.mark.node

PLAN = "podthaw.dev/plan"


@pytest.fixture(scope="module")
def opted_in(stack: Stack, web: str) -> Iterator[Running]:
    """A sandbox that serves several CreateContainer calls: each brings annotations of its own."""
    running = stack.pods.sandbox(WEB.restoring(web))
    running.kept = True
    yield running
    stack.pods.remove(running)


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "..", "../web", "e2e/web", "other/../e2e/web", "/etc/passwd", "./web", "web/",
        "WEB", "web\n", "web\0", "a" * 254, "x" * 70_000, "web@", "web@sha256:short",
        "web@sha256:" + "A" * 64, "web@sha256:../../../../etc", "wéb", "$(reboot)", "`id`",
        "sha256:" + "0" * 64, "-c", "--help", "http://host/x",
    ],
    ids=lambda value: ascii(value[:24]),
)  # fmt: skip
def test_malformed_names(stack: Stack, opted_in: Running, value: str) -> None:
    container = WEB.containers[0]
    opted_in.pod = WEB.restoring(value, on_failure="fail")
    with pytest.raises(RpcError) as caught:
        stack.pods.create(opted_in, container)
    error = reason(caught.value)
    assert error.startswith("FAILED_PRECONDITION: podthaw: ")
    assert len(error) < 600
    assert "Traceback" not in error
    assert error.isprintable()
    opted_in.pod = WEB.restoring(value)
    made = stack.pods.create(opted_in, container)
    annotations = stack.cri.ask("ContainerStatus", container_id=made)["status"]["annotations"]
    stack.cri.ask("RemoveContainer", container_id=made)
    assert PLAN not in annotations


@pytest.mark.parametrize("value", ["../web", "web\0"], ids=ascii)
def test_a_malformed_name_starts_cold(stack: Stack, value: str) -> None:
    with stack.leaves_nothing():
        running = stack.pods.start(WEB.restoring(value))
        assert is_cold(running)
        stack.pods.remove(running)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("podthaw.dev/snapshoot", "web"),
        ("podthaw.dev/on-failure", "explode"),
        ("podthaw.dev/tcp", "keep"),
        ("podthaw.dev/" + "k" * 200, "v" * 10_000),
        ("podthaw.dev/snapshot.absent-container", "web"),
        ("podthaw.dev/snapshot.../../x", "web"),
    ],
    ids=lambda value: value[:30],
)
def test_unknown_or_wrong_annotations_do_not_stop_a_pod(
    stack: Stack, web: str, key: str, value: str
) -> None:
    del web
    assert is_cold(stack.pods.start(replace(WEB, annotations={key: value})))


def start_error(stack: Stack, running: Running) -> str:
    """Create and start the pod's container; the error's text."""
    try:
        stack.pods.create(running, running.pod.containers[0])
        stack.pods.start_container(running, running.pod.containers[0].name)
    except RpcError as error:
        return reason(error)
    raise AssertionError(f"started: {running.log()}")


def test_a_users_own_plan_annotation_is_refused(stack: Stack, web: str) -> None:
    container = replace(WEB.containers[0], annotations={PLAN: "0" * 32})
    running = stack.pods.sandbox(replace(WEB, containers=[container]).restoring(web))
    assert PLAN in start_error(stack, running)


def test_a_plan_annotation_on_the_pod_does_nothing(stack: Stack) -> None:
    assert is_cold(stack.pods.start(replace(WEB, annotations={PLAN: "0" * 32})))


def plan_of(stack: Stack, running: Running) -> str:
    """The id of the plan that was made for a created container."""
    for line in stack.node.exec(
        ["sh", "-c", f"grep -l {running.sandbox} {RUN}/plans/*/plan.json"]
    ).stdout.splitlines():
        return line.split("/")[-2]
    raise AssertionError("no plan")


def behind_the_proxy(stack: Stack, plan: str) -> str:
    """Start a container straight at containerd, with a plan of one's choice; the error."""
    pods = type(stack.pods)(stack.node, stack.direct)
    container = replace(WEB.containers[0], annotations={PLAN: plan})
    running = pods.sandbox(replace(WEB, handler="podthaw", containers=[container]))
    try:
        pods.create(running, container)
        pods.start_container(running, "main")
    except RpcError as error:
        return reason(error)
    finally:
        pods.remove_all()
    raise AssertionError("started")


def test_a_plan_of_another_sandbox(stack: Stack, web: str) -> None:
    running = stack.pods.sandbox(WEB.restoring(web))
    stack.pods.create(running, WEB.containers[0])
    plan = plan_of(stack, running)
    assert "sandbox" in behind_the_proxy(stack, plan)
    # The thief's attempt does not take the plan from its owner.
    stack.pods.start_container(running, "main")
    running.wait_ready()
    assert not is_cold(running)


def test_a_plan_used_twice(stack: Stack, web: str) -> None:
    running = stack.pods.start(WEB.restoring(web))
    plan = plan_of(stack, running)
    with stack.leaves_nothing():
        error = behind_the_proxy(stack, plan)
    assert "sandbox" in error or "used before" in error


def test_a_hand_made_plan(stack: Stack, web: str) -> None:
    """Not root's, or readable by others, or a symbolic link: refused."""
    running = stack.pods.sandbox(WEB.restoring(web))
    stack.pods.create(running, WEB.containers[0])
    plan = plan_of(stack, running)
    folder = f"{RUN}/plans/{plan}"
    stack.node.exec(["chmod", "0755", folder])
    assert "mode" in behind_the_proxy(stack, plan)
    stack.node.exec(["sh", "-c", f"chmod 0700 {folder}; chown 1000 {folder}"])
    assert "belongs" in behind_the_proxy(stack, plan)
    other = "f" * 32
    stack.node.exec(["sh", "-c", f"chown 0 {folder}; ln -s {folder} {RUN}/plans/{other}"])
    try:
        assert "symbolic link" in behind_the_proxy(stack, other)
    finally:
        stack.node.exec(["rm", f"{RUN}/plans/{other}"])


@pytest.mark.parametrize("plan", ["", "../../../tmp/x", "0" * 31, "0" * 32, "Z" * 32, "/tmp"])
def test_a_plan_that_is_none(stack: Stack, plan: str) -> None:
    with stack.leaves_nothing():
        error = behind_the_proxy(stack, plan)
    assert "plan" in error
    assert "Traceback" not in error


def test_symbolic_links_planted_in_the_store(stack: Stack, web: str) -> None:
    digest = stack.digest(f"e2e/{web}")
    names, snapshots = f"{STORE}/names", f"{STORE}/snapshots"
    fake = "e" * 64
    script = f"""
        mkdir -p {names}/thief; ln -sf {names}/e2e/{web} {names}/thief/stolen
        ln -sfn {names}/e2e {names}/linked
        mkdir -p /tmp/planted; cp {snapshots}/{digest[7:]}/manifest.json /tmp/planted/
        ln -sfn /tmp/planted {snapshots}/{fake}; printf 'sha256:{fake}\\n' > {names}/e2e/planted
    """
    stack.node.exec(["sh", "-c", script])
    try:
        for namespace, name in (("thief", "stolen"), ("linked", web), ("e2e", "planted")):
            pod = replace(WEB, namespace=namespace)
            assert is_cold(stack.pods.start(pod.restoring(name))), (namespace, name)
            _, error = stack.pods.try_start(pod.restoring(name, on_failure="fail"))
            assert error, (namespace, name)
        assert stack.podthaw("list", check=False).status == 0
    finally:
        stack.node.exec(
            [
                "rm",
                "-rf",
                f"{names}/thief",
                f"{names}/linked",
                f"{names}/e2e/planted",
                f"{snapshots}/{fake}",
            ]
        )


def test_the_stores_and_sockets_modes(stack: Stack, web: str) -> None:
    paths = [STORE, stack.snapshot(f"e2e/{web}"), f"{RUN}/plans", f"{RUN}/podthaw.sock"]
    modes = stack.node.exec(["stat", "-c", "%a %u", *paths]).stdout.split("\n")
    assert modes[:4] == ["700 0", "700 0", "700 0", "600 0"]


def test_what_a_user_sees_of_a_decision(stack: Stack, web: str) -> None:
    running = stack.pods.start(WEB.restoring("never-captured"))
    rows = json.loads(stack.podthaw("status", "-o", "json").stdout)
    text = json.dumps(rows)
    assert running.name in text
    assert "never-captured" in text
    del web
