"""Capture: by command and by CRI call; what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import WEB
from tests.e2e.pods import Container, Pod
from tests.e2e.rpc import RpcError, reason
from tests.e2e.stack import STORE, Stack, is_cold
from tests.node import gobuild

pytestmark = pytest.mark.node


def test_what_the_manifest_says(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    stack.capture(pod, "described")
    found = stack.inspect("e2e/described")
    text = json.dumps(found)
    for part in (pod.name, pod.uid, pod.ip, pod.hostname, "workloads.runner", "python3"):
        assert part in text, part
    assert stack.podthaw("verify", "e2e/described").status == 0


def test_check_alone_captures_nothing(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    with stack.leaves_nothing():
        result = stack.podthaw("capture", f"e2e/{pod.name}", "--name", "unmade", "--check")
        assert result.status == 0
    assert stack.podthaw("inspect", "e2e/unmade", check=False).status != 0


def test_stop_ends_the_container(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    stack.capture(pod, "stopped", "--stop")
    assert pod.wait_exit()["exit_code"] == 137
    assert not is_cold(stack.pods.start(WEB.restoring("stopped", on_failure="fail")))


def test_a_second_capture_takes_the_name(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    stack.capture(pod, "twice")
    first = stack.digest("e2e/twice")
    stack.capture(pod, "twice")
    assert stack.digest("e2e/twice") != first


def test_two_captures_at_once(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    results = []

    def capture(name: str) -> None:
        results.append(stack.capture(pod, name, check=False))

    threads = [threading.Thread(target=capture, args=(f"both-{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [one for one in results if one.status]
    assert len(failed) < 3
    for one in failed:
        assert "another capture" in one.stderr
        assert "Traceback" not in one.stderr
    assert pod.get("/ready") == "ready"


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("e2e/absent-pod", (), ("absent-pod",)),
        ("nowhere/{pod}", (), ("nowhere",)),
        ("e2e/{pod}", ("-c", "absent"), ("absent", "main")),
        ("e2e/{pod}", ("--name", "../up"), ("../up",)),
        ("e2e/{pod}", ("--name", "a/b"), ("a/b",)),
        ("{pod}", (), ("namespace",)),
    ],
)
def test_wrong_requests(
    stack: Stack, target: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    pod = stack.pods.start(WEB)
    name = () if "--name" in options else ("--name", "wrong")
    with stack.leaves_nothing():
        result = stack.podthaw("capture", target.format(pod=pod.name), *options, *name, check=False)
    assert result.status in {1, 2}
    assert [word for word in words if word not in result.stderr.lower()] == [], result.stderr
    assert "Traceback" not in result.stderr


def test_a_container_that_does_not_run(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    pod.get("/exit?code=0")
    pod.wait_exit()
    result = stack.capture(pod, "ended", check=False)
    assert result.status != 0
    assert "running" in result.stderr


def test_capture_killed_at_every_moment_disturbs_nothing(stack: Stack) -> None:
    """The command is killed after ever more time; the container runs on and nothing stays."""
    pod = stack.pods.start(WEB)
    with stack.leaves_nothing():
        for tenths in (1, 2, 3, 4, 5, 6, 8, 10):
            stack.node.exec(
                [
                    "timeout",
                    "-s",
                    "KILL",
                    f"{tenths / 10}",
                    "/opt/podthaw/bin/podthaw",
                    "capture",
                    f"e2e/{pod.name}",
                    "--name",
                    "killed",
                ],
                check=False,
            )
            assert pod.get("/ready", timeout=15) == "ready"
            stack.podthaw("remove", "e2e/killed", check=False)
        stack.podthaw("gc", check=False)
    stack.capture(pod, "killed")
    assert not is_cold(stack.pods.start(WEB.restoring("killed", on_failure="fail")))


def test_a_terminal_is_refused_in_words(stack: Stack) -> None:
    pod = stack.pods.start(
        replace(WEB, containers=[replace(WEB.containers[0], tty=True, stdin=True)])
    )
    result = stack.capture(pod, "terminal", check=False)
    if result.status:
        assert "terminal" in result.stderr
        assert "Traceback" not in result.stderr
    else:
        assert not is_cold(stack.pods.start(pod.pod.restoring("terminal", on_failure="fail")))
    assert pod.get("/ready") == "ready"


def test_the_deadline_is_kept(stack: Stack) -> None:
    pod = stack.pods.start(WEB)
    with stack.leaves_nothing():
        result = stack.capture(pod, "late", "--timeout", "10ms", check=False)
    assert result.status != 0
    assert pod.get("/ready") == "ready"


# -- the CRI call ----------------------------------------------------------------------------


def test_checkpoint_call_writes_a_standard_tar(stack: Stack, tmp_path: Path) -> None:
    pod = stack.pods.start(WEB)
    path = "/var/lib/kubelet/checkpoints/test.tar"
    stack.node.exec(["mkdir", "-p", "/var/lib/kubelet/checkpoints"])
    with stack.leaves_nothing():
        stack.cri.ask("CheckpointContainer", container_id=pod.id(), location=path, timeout=60)
    assert pod.get("/ready") == "ready"
    assert stack.node.exec(["stat", "-c", "%a", path]).stdout.strip() == "600"
    local = tmp_path / "checkpoint.tar"
    stack.node.get(path, local)
    with tarfile.open(local) as archive:
        names = set(archive.getnames())
        config = json.load(archive.extractfile("config.dump"))  # type: ignore[arg-type]
    assert {"config.dump", "spec.dump", "checkpoint/inventory.img", "dump.log"} <= names
    assert config["id"] == pod.id()
    stack.node.link(gobuild.binary(gobuild.CHECKPOINTCTL), "/usr/local/bin/checkpointctl")
    shown = stack.node.exec(["checkpointctl", "show", path]).stdout
    assert "main" in shown
    tree = stack.node.exec(["checkpointctl", "inspect", "--all", path]).stdout
    assert "python3" in tree
    stack.node.exec(["rm", path])


@pytest.mark.parametrize("location", ["", "relative/path", "/nonexistent/folder/x.tar", "/proc/x"])
def test_checkpoint_call_with_a_wrong_place(stack: Stack, location: str) -> None:
    pod = stack.pods.start(WEB)
    with pytest.raises(RpcError) as caught:
        stack.cri.ask("CheckpointContainer", container_id=pod.id(), location=location, timeout=30)
    assert "Traceback" not in reason(caught.value)
    assert pod.get("/ready") == "ready"


def test_checkpoint_call_for_an_unknown_container(stack: Stack) -> None:
    with pytest.raises(RpcError) as caught:
        stack.cri.ask("CheckpointContainer", container_id="f" * 64, location="/tmp/x.tar")
    assert caught.value.code().name == "NOT_FOUND"


# -- the store by command --------------------------------------------------------------------


def test_a_snapshots_life(stack: Stack) -> None:
    pod = stack.pods.start(Pod(name="life", containers=[Container(args=WEB.containers[0].args)]))
    stack.capture(pod, "life")
    assert "life" in stack.podthaw("list").stdout
    stack.podthaw("tag", "e2e/life", "e2e/alive")
    stack.podthaw("pin", "e2e/life")
    assert stack.podthaw("remove", "e2e/life", "e2e/alive", check=False).status != 0
    stack.podthaw("unpin", "e2e/alive")
    user = stack.pods.start(WEB.restoring("alive", on_failure="fail"))
    directory = stack.snapshot("e2e/alive")
    stack.podthaw("remove", "e2e/life", check=False)
    stack.podthaw("gc", check=False)
    assert stack.node.exec(["test", "-d", directory], check=False).status == 0
    stack.pods.remove(user)
    stack.podthaw("remove", "e2e/alive")
    stack.podthaw("gc", check=False)
    assert stack.node.exec(["test", "-d", directory], check=False).status == 1
    assert stack.node.exec(["ls", "-A", f"{STORE}/tmp"]).stdout == ""
