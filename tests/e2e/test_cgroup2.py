"""The core path with cgroup v2 alone: its freezer, and containers with own cgroup namespaces.

The hierarchy of a machine that has its controllers in v1's has none, so limits are not looked at
here; test_outside does so with the machine's own layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.conftest import StartNode
from tests.e2e.conftest import WEB
from tests.e2e.damage import republish
from tests.e2e.pods import Running, eventually
from tests.e2e.stack import RUN, Stack, is_cold
from tests.node.node import PREFIX, Node

pytestmark = pytest.mark.node

# What the node sees of a container: its group, its namespace, and the mount in it.
VIEW = """
import json, os, sys
from pathlib import Path
pid = int(Path(sys.argv[1], "init.pid").read_text())
groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
group = next(line[3:] for line in groups if line.startswith("0::"))
mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
print(json.dumps({
    "group": group,
    "own": os.readlink(f"/proc/{pid}/ns/cgroup") != os.readlink("/proc/1/ns/cgroup"),
    "mounts": [[words[3], words[4], words[5]] for words in mounts if "cgroup2" in words],
    "frozen": Path(f"/sys/fs/cgroup{group}/cgroup.freeze").read_text().strip(),
}))
"""
# Kills a capture, and CRIU if so told, while the container is frozen, which may take it some tries.
KILL_WHEN_FROZEN = """
import os, subprocess, sys
freezer, criu_too, *command = sys.argv[1:]
def children(pid):
    return [int(child) for task in os.listdir(f"/proc/{pid}/task")
            for child in open(f"/proc/{pid}/task/{task}/children").read().split()]
for attempt in range(10):
    capture = subprocess.Popen(command)
    while capture.poll() is None:
        if open(freezer).read() == "1\\n":
            victims = [capture.pid]
            if criu_too == "True":
                victims += [pid for pid in children(capture.pid)
                            if open(f"/proc/{pid}/cmdline").read().startswith("criu\\0dump")]
            for pid in victims:
                os.kill(pid, 9)
            print(capture.wait())
            sys.exit()
"""
MANY_THREADS = """
import threading, time
for _ in range(400):
    threading.Thread(target=time.sleep, args=[1000]).start()
print("started", flush=True)
"""
TASKS = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"


@pytest.fixture(scope="module")
def stack(start_node: StartNode) -> Iterator[Stack]:
    """A node with cgroup v2 alone."""
    node: Node = start_node(unified=True)
    node.install_podthaw()
    node.start_containerd()
    running = Stack(node)
    yield running
    running.close()
    node.stop()


@pytest.fixture(scope="module")
def core(stack: Stack) -> str:
    """A snapshot; what was captured runs on."""
    pod = stack.pods.start(WEB)
    assert is_cold(pod)
    stack.capture(pod, "core")
    assert view(stack, pod)["frozen"] == "0"
    assert pod.get("/ready") == "ready"
    stack.pods.remove(pod)
    return "core"


def view(stack: Stack, pod: Running) -> dict[str, object]:
    """VIEW of a pod's container."""
    answer = stack.node.exec(["python3", "-c", VIEW, f"{TASKS}/{pod.id()}"])
    value: dict[str, object] = json.loads(answer.stdout)
    return value


def inside(pod: Running) -> list[str]:
    """What a command in the container sees: groups of process 1 and its own, the mount's root."""
    script = (
        "grep ^0:: /proc/1/cgroup; grep ^0:: /proc/self/cgroup; "
        "grep ' - cgroup2 ' /proc/self/mountinfo | cut -d ' ' -f 4-6; "
        "grep -qx 1 /sys/fs/cgroup/cgroup.procs && echo listed"
    )
    return pod.exec(["sh", "-c", script])[1].splitlines()


def test_core_path(stack: Stack, core: str) -> None:
    assert stack.inspect(f"e2e/{core}")["manifest"]["host"]["cgroup"] == 2
    cold = stack.pods.start(WEB)
    with stack.leaves_nothing():
        restored = stack.pods.start(WEB.restoring(core, on_failure="fail"))
        assert not is_cold(restored)
        identity = restored.get("/identity")
        assert identity["hostname"] == restored.hostname
        assert restored.ip in identity["addresses"]
        assert identity["token"] == restored.token
        restored.get("/print?text=hello")
        assert eventually(lambda: restored.log() == "hello")
        usage = stack.cri.ask("ContainerStats", container_id=restored.id())["stats"]
        assert usage["attributes"]["id"] == restored.id()
        assert inside(restored) == inside(cold)
        stack.cri.ask("StopContainer", container_id=restored.id(), timeout=20)
        assert restored.wait_exit()["exit_code"] == 7
        stack.pods.remove(restored)


def test_a_restored_container_has_the_new_pods_group(stack: Stack, core: str) -> None:
    for pod in (stack.pods.start(WEB), stack.pods.start(WEB.restoring(core, on_failure="fail"))):
        group = f"{stack.node.cgroup}/kubepods/pod{pod.uid}/{pod.id()}"
        assert view(stack, pod) == {
            "group": group,
            "own": True,
            "mounts": [[group, "/sys/fs/cgroup", "ro,nosuid,nodev,noexec,relatime"]],
            "frozen": "0",
        }


def test_groups_below_the_containers_own_come_back(stack: Stack) -> None:
    """As a service manager in a container makes them; all are frozen, and removed at the end."""
    pod = stack.pods.start(WEB)
    group = f"/sys/fs/cgroup{view(stack, pod)['group']}"
    script = 'mkdir "$1/below"; cat "$2/init.pid" > "$1/below/cgroup.procs"'
    stack.node.exec(["sh", "-ec", script, "sh", group, f"{TASKS}/{pod.id()}"])
    stack.capture(pod, "below")
    assert pod.get("/ready") == "ready"
    with stack.leaves_nothing():
        restored = stack.pods.start(WEB.restoring("below", on_failure="fail"))
        # A command joins process 1: CRIU hands controllers down to the group that it makes.
        assert inside(restored)[:2] == ["0::/below", "0::/below"]
        stack.pods.remove(restored)


def test_without_a_cgroup_namespace(stack: Stack) -> None:
    """A privileged container sees the whole hierarchy."""
    security = {"privileged": True, "masked_paths": [], "readonly_paths": []}
    pod = replace(WEB, privileged=True, containers=[replace(WEB.containers[0], security=security)])
    original = stack.pods.start(pod)
    stack.capture(original, "privileged")
    restored = stack.pods.start(pod.restoring("privileged", on_failure="fail"))
    found = view(stack, restored)
    assert found["own"] is False
    assert found["mounts"] == [["/", "/sys/fs/cgroup", "rw,nosuid,nodev,noexec,relatime"]]
    assert inside(restored)[0] == f"0::{found['group']}"


def test_capture_of_a_restored_container(stack: Stack, core: str) -> None:
    first = stack.pods.start(WEB.restoring(core, on_failure="fail"))
    stack.capture(first, "second")
    second = stack.pods.start(WEB.restoring("second", on_failure="fail"))
    assert not is_cold(second)
    assert second.ip in second.get("/identity")["addresses"]
    assert first.get("/ready") == "ready"


def test_a_broken_snapshot_leaves_nothing(stack: Stack, core: str) -> None:
    truncate = "open(f'{here}/images/core-1.img', 'r+b').truncate(200)"
    republish(stack, core, "broken", artifacts=truncate)
    with stack.leaves_nothing():
        pod = stack.pods.start(WEB.restoring("broken"))
        assert is_cold(pod)
        assert len(inside(pod)) == 4
        stack.pods.remove(pod)


def test_a_snapshot_of_cgroup_v1_does_not_fit(stack: Stack, core: str) -> None:
    republish(stack, core, "older", code="manifest['host']['cgroup'] = 1")
    pod, error = stack.pods.try_start(WEB.restoring("older", on_failure="fail"))
    assert "cgroup v1, found v2" in error, pod.log()


@pytest.mark.parametrize("victims", ["capture", "capture and CRIU"])
def test_a_capture_that_is_killed_while_all_is_frozen(stack: Stack, victims: str) -> None:
    pod = stack.pods.start(WEB)
    # CRIU thaws the group as soon as it holds every thread: let that take a while.
    more = 'python3 -c "$1" > /tmp/out 2>&1 < /dev/null & until grep started /tmp/out; do :; done'
    pod.exec(["sh", "-c", more, "sh", MANY_THREADS])
    freezer = f"/sys/fs/cgroup{view(stack, pod)['group']}/cgroup.freeze"
    command = [f"{PREFIX}/bin/podthaw", "capture", f"e2e/{pod.name}", "--name", "killed"]
    script = ["python3", "-c", KILL_WHEN_FROZEN, freezer, str("CRIU" in victims), *command]
    assert stack.node.exec(script).stdout.split() == ["-9"]
    assert eventually(lambda: view(stack, pod)["frozen"] == "0")
    assert pod.get("/ready") == "ready"
    assert eventually(lambda: stack.node.exec(["ls", "-A", f"{RUN}/captures"]).stdout == "")
    stack.capture(pod, "afterwards")
