"""Hooks of the workload: told before a capture, woken in the original and in what is restored."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from tests.e2e.pods import Container, Pod, Running, eventually
from tests.e2e.rpc import RpcError, reason
from tests.e2e.stack import Stack, is_cold

pytestmark = pytest.mark.node

HOOKED = Pod(name="hooked", containers=[Container(args=("-B", "-u", "-m", "workloads.hooked"))])

REST = "http:8080/rest"
WAKES = {
    "http:8080/wake?who=x": "POST/wake?who=x",
    "exec:sh -c 'echo woken $(id -u) >> /tmp/told'": "woken",
    "signal:USR1": "USR1",
}


def told(pod: Running) -> list[str]:
    found: list[str] = pod.get("/told")
    return found


def with_hooks(**hooks: str) -> Pod:
    return replace(
        HOOKED,
        annotations={f"podthaw.dev/{key.replace('_', '-')}": value for key, value in hooks.items()},
    )


@pytest.fixture(scope="module")
def rested(stack: Stack) -> str:
    """A snapshot of a workload that was told of its capture; it has hooks of no other kind."""
    pod = stack.pods.start(with_hooks(before_capture=REST))
    stack.capture(pod, "rested")
    assert told(pod) == ["POST/rest"]
    stack.pods.remove(pod)
    return "rested"


@pytest.mark.parametrize("wake", WAKES)
def test_woken_in_the_restored_container_before_its_start_returns(
    stack: Stack, rested: str, wake: str
) -> None:
    pod = stack.pods.start(
        HOOKED.restoring(rested, on_failure="fail", after_restore=wake), ready=False
    )
    assert eventually(lambda: told(pod)[:2] == ["POST/rest", WAKES[wake]], 2), told(pod)
    assert not is_cold(pod)
    (status,) = json.loads(stack.podthaw("status", f"e2e/{pod.name}", "-o", "json").stdout)
    assert status["outcome"] == "restored"
    assert 0 < status["phases"]["hook"] < 10
    assert status["warnings"] == []


@pytest.mark.parametrize("wake", WAKES)
def test_the_original_is_told_and_woken(stack: Stack, wake: str) -> None:
    hooks = {"before_capture": "exec:sh -c 'echo rested >> /tmp/told'", "after_restore": wake}
    pod = stack.pods.start(with_hooks(**hooks))
    made = json.loads(stack.capture(pod, "woken", "-o", "json").stdout)
    assert eventually(lambda: told(pod)[:2] == ["rested", WAKES[wake]], 2), told(pod)
    assert made["phases"]["hook"] > 0
    assert made["phases"]["wake"] > 0
    assert made["warnings"] == []


def test_a_capture_without_a_hook_before_it_wakes_nobody(stack: Stack) -> None:
    pod = stack.pods.start(with_hooks(after_restore="http:8080/wake"))
    stack.capture(pod, "unwoken")
    assert told(pod) == []


def test_the_checkpoint_call_tells_and_wakes(stack: Stack) -> None:
    pod = stack.pods.start(with_hooks(before_capture=REST, after_restore="http:8080/wake"))
    place = "/var/lib/hooked.tar"
    stack.cri.ask("CheckpointContainer", container_id=pod.id(), location=place, timeout=60)
    stack.node.exec(["rm", place])
    assert told(pod) == ["POST/rest", "POST/wake"]
    broken = stack.pods.start(with_hooks(before_capture="http:8080/bad"))
    with pytest.raises(RpcError) as caught:
        stack.cri.ask("CheckpointContainer", container_id=broken.id(), location=place, timeout=60)
    assert "nothing was frozen: http:8080/bad was answered with status 500" in reason(caught.value)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("http:8080/bad", "status 500"),
        ("http:8081/", "Connection refused"),
        ("http:8080/hang", "was not done within"),
        ("exec:sh -c 'echo busy >&2; exit 3'", "ended with status 3: busy"),
        ("exec:sleep 60", "was not done within"),
        ("exec:/nowhere", "/nowhere"),
        ("signal:USR2", "would be lost"),
        ("signal:KILL", "wanted http:PORT/PATH"),
    ],
)
def test_a_hook_before_the_capture_that_fails(stack: Stack, before: str, words: str) -> None:
    pod = stack.pods.start(with_hooks(before_capture=before, after_restore="http:8080/wake"))
    with stack.leaves_nothing():
        begun = time.monotonic()
        result = stack.capture(pod, "unrested", "--timeout", "3s", check=False)
        assert time.monotonic() - begun < 20
    assert result.status == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert ("POST/wake" in told(pod)) == (before != "signal:KILL")
    assert stack.podthaw("inspect", "e2e/unrested", check=False).status == 1


FAILING = [
    ("http:8080/bad", "was answered with status 500"),
    ("http:8081/", "was not answered"),
    ("exec:sh -c 'echo not yet; exit 4'", "ended with status 4: not yet"),
    ("exec:/nowhere", "/nowhere"),
    ("signal:USR2", "would be lost"),
]
HANGS = "was not done within 30 seconds"


@pytest.mark.parametrize(("wake", "words"), [*FAILING, ("exec:sleep 60", HANGS)])
def test_a_hook_after_the_restore_that_fails_means_a_cold_start(
    stack: Stack, rested: str, wake: str, words: str
) -> None:
    with stack.leaves_nothing():
        pod = stack.pods.start(HOOKED.restoring(rested, after_restore=wake))
        assert is_cold(pod)
        assert pod.log().count("first line") == 1
        assert told(pod) == []
        (status,) = json.loads(stack.podthaw("status", f"e2e/{pod.name}", "-o", "json").stdout)
        assert (status["outcome"], status["kind"]) == ("cold", "unfit")
        assert words in status["reason"]
        assert "hook" in status["phases"]
        stack.pods.remove(pod)
    # The snapshot is not to blame.
    stack.pods.start(HOOKED.restoring(rested, on_failure="fail"))


@pytest.mark.parametrize(("wake", "words"), [*FAILING, ("http:8080/hang", HANGS)])
def test_a_hook_after_the_restore_that_fails_fails_the_start(
    stack: Stack, rested: str, wake: str, words: str
) -> None:
    with stack.leaves_nothing():
        pod, error = stack.pods.try_start(
            HOOKED.restoring(rested, on_failure="fail", after_restore=wake)
        )
        assert words in error
        stack.pods.remove(pod)


def test_a_program_of_a_hook_has_the_containers_privileges(stack: Stack, rested: str) -> None:
    wake = "exec:sh -c 'grep -E \"Cap|Seccomp:\" /proc/self/status > /tmp/mine'"
    pod = stack.pods.start(HOOKED.restoring(rested, on_failure="fail", after_restore=wake))
    script = 'grep -E "Cap|Seccomp:" /proc/self/status | diff - /tmp/mine'
    assert pod.exec(["sh", "-c", script]) == (0, "", "")


def test_the_hook_of_another_container_is_not_ours(stack: Stack, rested: str) -> None:
    pod = HOOKED.restoring(rested, on_failure="fail")
    hooks = {"podthaw.dev/after-restore.other": "exec:false"}
    running = stack.pods.start(replace(pod, annotations={**pod.annotations, **hooks}))
    assert told(running) == ["POST/rest"]
