"""The test node itself: what other tests build on must hold on every flavour."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartNode
from tests.node import images, janitor
from tests.node.execute import CommandFailed
from tests.node.node import FLAVOURS, REPOSITORY, Node

pytestmark = pytest.mark.node

CONFIG = """\
version = 3
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.podthaw]
  runtime_type = "io.containerd.runc.v2"
  sandboxer = "podsandbox"
  pod_annotations = ["podthaw.dev/*"]
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.podthaw.options]
    BinaryName = "/usr/sbin/runc"
[plugins."dev.podthaw.v1"]
  store = "/elsewhere"
"""
# No containerd accepts a runtime without a type that is text.
BAD_CONFIG = CONFIG.replace('"io.containerd.runc.v2"', "[1]")


@pytest.fixture(scope="module", params=FLAVOURS)
def bare(request: pytest.FixtureRequest, start_node: StartNode) -> Node:
    """A node of each flavour with nothing of Podthaw's but a runtime that is plain runc."""
    node = start_node(request.param)
    node.put(REPOSITORY / "deploy/dropin.py", "/tmp/dropin.py")
    node.write("/tmp/podthaw.toml", CONFIG)
    node.exec(["python3", "/tmp/dropin.py", "/tmp/podthaw.toml"])
    node.start_containerd()
    return node


@pytest.mark.parametrize("handler", ["", "podthaw"])
def test_a_pod_runs_with_the_old_runtime_and_the_new(bare: Node, handler: str) -> None:
    with bare.cri() as cri, cri.run_pod("web", handler=handler) as pod:
        container = pod.run("main", images.BUSYBOX, ["sh", "-c", "echo hello; exec sleep 99"])
        assert container.exec("hostname").stdout == "web\n"
        assert pod.ip.startswith("10.88.")
        assert bare.read(container.log).endswith(b"stdout F hello\n")


def test_python_runs_in_a_pod(bare: Node) -> None:
    with bare.cri() as cri, cri.run_pod("py") as pod:
        container = pod.run("main", images.PYTHON, ["python3", "-c", "raise SystemExit(7)"])
        assert container.wait() == 7


def test_the_drop_in_keeps_what_containerd_had(bare: Node) -> None:
    def dumped() -> str:
        text = bare.exec(["containerd", "config", "dump"]).stdout
        # containerd 1.7 prints the imported files in no fixed order.
        return re.sub(r"(?m)^imports = .*$", "", text)

    dump = dumped()
    assert images.PAUSE in dump
    assert "runtimes.runc" in dump
    # A second run, over the first one's drop-in, ends the same.
    bare.exec(["python3", "/tmp/dropin.py", "/tmp/podthaw.toml"])
    assert dumped() == dump


def test_a_drop_in_that_containerd_refuses_is_taken_back(bare: Node) -> None:
    before = bare.read("/etc/containerd/conf.d/50-podthaw.toml")
    bare.write("/tmp/bad.toml", BAD_CONFIG)
    result = bare.exec(["python3", "/tmp/dropin.py", "/tmp/bad.toml"], check=False)
    assert result.status == 1
    assert "dropin.py: " in result.stderr
    assert bare.read("/etc/containerd/conf.d/50-podthaw.toml") == before


def test_kubelet_runs_a_static_pod(bare: Node) -> None:
    bare.start_kubelet()
    container = {"name": "c", "image": images.BUSYBOX, "command": ["sleep", "99"]}
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "static"},
        "spec": {"containers": [container | {"imagePullPolicy": "Never"}]},
    }
    name = bare.add_static_pod(manifest)

    def phase() -> str | None:
        status = bare.pods().get(name, {}).get("status", {})
        return str(status.get("phase"))

    bare.wait("running pod", lambda: phase() == "Running")
    bare.remove_static_pod(manifest)
    bare.wait("end of the pod", lambda: name not in bare.pods(), timeout=60)
    bare.kill("kubelet")


def test_commands_have_input_output_and_a_limit(bare: Node) -> None:
    data = bytes(range(256)) * 4096
    assert bare.exec(["cat"], input=data).output == data
    with pytest.raises(CommandFailed, match="ended with 3\nstdout: a\n\nstderr: b"):
        bare.exec(["sh", "-c", "echo a; echo b >&2; exit 3"])
    assert bare.exec(["sleep", "30"], timeout=0.5, check=False).status == 124


def test_files_go_in_and_come_out(bare: Node, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("content")
    bare.put(tree, "/tmp/there")
    bare.get("/tmp/there", tmp_path / "back")
    assert (tmp_path / "back/sub/file").read_text() == "content"
    assert bare.read("/tmp/there/sub/file") == b"content"


def test_two_nodes_share_a_store(start_node: StartNode, tmp_path: Path) -> None:
    first = start_node(name="n1", store=str(tmp_path))
    second = start_node(name="n2", store=str(tmp_path))
    first.write("/var/lib/podthaw/store/file", json.dumps("shared"))
    assert second.read("/var/lib/podthaw/store/file") == b'"shared"'


LEAVES_A_FROZEN_PROCESS = """
import os
from tests.node import janitor
from tests.node.node import Node

node = Node().start()
print(node.id, flush=True)
for name, frozen in ("freezer.state", "FROZEN"), ("cgroup.freeze", "1"):
    for top in janitor.hierarchies():
        if (top / node.id / name).exists():
            below = top / node.id / "pod"
            below.mkdir(exist_ok=True)
            pid = node.exec(["sh", "-c", "sleep 999 >/dev/null 2>&1 & echo $!"]).stdout
            inside = f"/sys/fs/cgroup/{top.name}/{node.id}/pod"
            node.exec(["sh", "-c", f"echo {pid.strip()} > {inside}/cgroup.procs"], check=False)
            (below / name).write_text(frozen)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_run_left_is_removed(start_node: StartNode) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", LEAVES_A_FROZEN_PROCESS],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    left = killed.stdout.strip()
    assert left
    client = start_node(name="n3").client
    assert left not in {container.name for container in client.containers.list(all=True)}
    assert not [volume.name for volume in client.volumes.list() if left in volume.name]
    assert not any((path / left).exists() for path in janitor.hierarchies())
