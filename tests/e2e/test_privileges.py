"""A snapshot brings memory and files back, never what the request does not give."""

from __future__ import annotations

import json
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


SECCOMP = "/var/lib/seccomp.json"


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ({"capabilities": {"drop_capabilities": ["ALL"]}}, "lacks CAP_"),
        ({"run_as_user": {"value": 0}, "run_as_group": {"value": 1000}}, "gid"),
        ({"run_as_username": "nobody"}, "user"),
        ({"seccomp": {"profile_type": "Localhost", "localhost_ref": SECCOMP}}, "seccomp"),
        ({"readonly_paths": []}, "readonly paths"),
        ({"namespace_options": {"pid": "NODE"}}, "namespaces.pid"),
    ],
    ids=str,
)
def test_every_part_of_the_profile(
    stack: Stack, web: str, security: dict[str, Any], words: str
) -> None:
    profile = '{"defaultAction": "SCMP_ACT_ALLOW"}'
    stack.node.exec(["sh", "-c", f"printf '%s' '{profile}' > {SECCOMP}"])
    asked = replace(WEB, containers=[replace(WEB.containers[0], security=security)])
    assert words in reason(stack, asked.restoring(web, on_failure="fail"))


def test_a_device(stack: Stack, web: str) -> None:
    device = {"container_path": "/dev/fuse", "host_path": "/dev/null", "permissions": "rw"}
    asked = replace(WEB, containers=[replace(WEB.containers[0], devices=[device])])
    assert "device" in reason(stack, asked.restoring(web, on_failure="fail"))


def test_what_runs_has_what_the_request_says_and_nothing_more(stack: Stack) -> None:
    """Of the restored processes themselves: capabilities, seccomp, groups, masks, devices."""
    stack.node.exec(
        ["sh", "-c", f"printf '%s' '{{\"defaultAction\": \"SCMP_ACT_ALLOW\"}}' > {SECCOMP}"]
    )
    security = {
        "capabilities": {
            "drop_capabilities": ["ALL"],
            "add_capabilities": ["NET_BIND_SERVICE", "NET_ADMIN"],
        },
        "seccomp": {"profile_type": "RuntimeDefault"},
        "no_new_privs": True,
        "supplemental_groups": [4242, 17],
        "readonly_rootfs": True,
    }
    container = replace(WEB.containers[0], security=security, env={"SCRATCH": "/dev/shm"})
    pod = replace(WEB, containers=[container])
    cold = stack.pods.start(pod)
    stack.capture(cold, "narrow")
    restored = stack.pods.start(pod.restoring("narrow", on_failure="fail"))
    assert not is_cold(restored)
    script = (
        # The guard's filter and the memory's mount come besides (test_memory.py).
        "grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups|Uid|Gid)' /proc/1/status;"
        "sed 's/^[^ ]* [^ ]* [^ ]* //; s/ - / /; s/master:[0-9]*//; s/shared:[0-9]*//'"
        " /proc/1/mountinfo | awk '{print $2, $3}' | grep -v '^/.podthaw-pages ' | sort;"
        "ls -l /dev | awk '{print $1,$5,$6,$NF}';"
        "touch /x /proc/sys/kernel/domainname 2>&1; cat /proc/kcore /proc/keys 2>&1 | head -c 99"
    )
    seen = [one.exec(["sh", "-c", script])[1] for one in (cold, restored)]
    assert seen[0] == seen[1]
    assert "CapEff" in seen[1]
    assert "Read-only" in seen[1]


def test_a_container_that_is_paused(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    ctr = ["ctr", "-n", "k8s.io", "task"]
    stack.node.exec([*ctr, "pause", pod.id()])
    try:
        result = stack.capture(pod, "paused", check=False)
        assert result.status != 0
        assert "paused" in result.stderr or "frozen" in result.stderr, result.stderr
    finally:
        stack.node.exec([*ctr, "resume", pod.id()])
    assert pod.get("/ready") == "ready"
    stack.capture(pod, "paused")


def test_a_sandbox_is_no_container(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    result = stack.podthaw("capture", "--container-id", pod.sandbox, "--check", check=False)
    assert result.status == 1
    assert "no such container" in result.stderr
    for name in ("..", "/", "a" * 5000, "*"):
        result = stack.podthaw("capture", "--container-id", name, "--check", check=False)
        assert result.status in {1, 2}
        assert "Traceback" not in result.stderr


def test_somebody_who_is_not_root(stack: Stack, web: str) -> None:
    """A sentence for each command, and nothing is seen or changed."""
    del web
    for command in (
        "list", "status", "gc", "inspect e2e/web", "remove e2e/web", "tag e2e/web x",
        "capture e2e/web-1 --name x", "proxy", "verify e2e/web",
    ):  # fmt: skip
        done = stack.node.exec(
            ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c",
             f"/opt/podthaw/bin/podthaw {command}"], check=False,
        )  # fmt: skip
        assert done.status != 0, command
        words = "wanted user 1000" if command == "proxy" else "ermission denied"
        assert words in done.stderr, f"{command}: {done.stderr}"
        assert "unexpected" not in done.stderr, f"{command}: {done.stderr}"
        assert "Traceback" not in done.stderr


def test_both_forms_of_the_annotation(stack: Stack, web: str) -> None:
    """The container's own goes before the general one, also when it cannot be used."""
    both = WEB.restoring(web)
    wrong = both.restoring("absent", container="main", on_failure="fail")
    assert "absent" in reason(stack, wrong)
    right = WEB.restoring("absent", on_failure="fail").restoring(web, container="main")
    assert not is_cold(stack.pods.start(right))
    other = WEB.restoring(web, on_failure="fail").restoring("../x", container="other")
    assert not is_cold(stack.pods.start(other))


def test_the_pods_own_limits_of_ipc_and_its_name_stay(stack: Stack, web: str) -> None:
    """Sysctls of the pod are set in the sandbox, which containers join."""
    pod = stack.pods.sandbox(WEB.restoring(web, on_failure="fail"))
    status = stack.cri.ask("PodSandboxStatus", pod_sandbox_id=pod.sandbox, verbose=True)
    pid = str(json.loads(status["info"]["info"])["pid"])
    enter = ["nsenter", "-t", pid, "-i", "-u"]
    stack.node.exec([*enter, "sysctl", "-qw", "kernel.msgmax=4321", "kernel.sem=11 222 33 44"])
    stack.node.exec([*enter, "sysctl", "-qw", "kernel.domainname=example.test"])
    stack.pods.create(pod, WEB.containers[0])
    stack.pods.start_container(pod, "main")
    pod.wait_ready()
    assert not is_cold(pod)
    read = ["cat", "/proc/sys/kernel/msgmax", "/proc/sys/kernel/sem", "/proc/sys/kernel/domainname"]
    assert pod.exec(read)[1].split() == ["4321", "11", "222", "33", "44", "example.test"]


def test_a_limit_that_is_too_small_is_the_requests_fault(stack: Stack) -> None:
    """The snapshot is not set aside: it fits a pod with more memory.

    With mapped memory this one would do: pages that are not written need none.
    """
    pod = stack.pods.start(WEB)
    web = "web-copied"
    stack.capture(pod, web, "--memory", "eager")
    limits = {"memory_limit_in_bytes": 6 << 20, "memory_swap_limit_in_bytes": 6 << 20}
    asked = replace(WEB, containers=[replace(WEB.containers[0], resources=limits)])
    _, error = stack.pods.try_start(asked.restoring(web, on_failure="fail"))
    assert "memory" in error
    assert not is_cold(stack.pods.start(WEB.restoring(web, on_failure="fail")))
