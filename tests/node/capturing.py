"""What the tests of captures share: a busy pod, the command, and what must be true afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.node import images
from tests.node.cri import Container, Cri
from tests.node.execute import Result
from tests.node.node import Node

PODTHAW = "/opt/podthaw/bin/podthaw"
RUN = "/run/podthaw"
STORE = "/var/lib/podthaw/store"
BUSY = (Path(__file__).parent / "files/busy.py").read_text()

_numbers = itertools.count(1)


def unique(name: str) -> str:
    """A name that no other pod of this test run has."""
    return f"{name}-{next(_numbers)}"


@contextlib.contextmanager
def busy(node: Node, cri: Cri, megabytes: int = 20) -> Iterator[Container]:
    """A pod with the busy program, counting."""
    with cri.run_pod(unique("busy")) as pod:
        container = pod.run("main", images.PYTHON, ["python3", "-c", BUSY, str(megabytes)])
        wait_until_it_counts(node, container, beyond=5)
        yield container


@contextlib.contextmanager
def program(cri: Cri, code: str, **config: Any) -> Iterator[Container]:
    """A pod with a program in Python that prints ``ready``."""
    with cri.run_pod(unique("program")) as pod:
        yield pod.run("main", images.PYTHON, ["python3", "-c", code], **config)


def podthaw(node: Node, *arguments: str, check: bool = True, timeout: float = 120) -> Result:
    """Run the command in the node."""
    return node.exec([PODTHAW, *arguments], check=check, timeout=timeout)


def name_of(container: Container) -> str:
    """NAMESPACE/POD."""
    return f"default/{container.pod.name}"


def counted(node: Node, container: Container) -> int:
    """How far the busy program has counted."""
    lines = [
        line for line in node.read(container.log).decode().splitlines() if " stdout F " in line
    ]
    return int(lines[-1].rpartition(" ")[2]) if lines else 0


def wait_until_it_counts(
    node: Node, container: Container, *, beyond: int | None = None, timeout: float = 30
) -> None:
    """Wait until the program counts on: it runs, and its connections and pipes work."""
    start = counted(node, container) + 5 if beyond is None else beyond
    node.wait("counting", lambda: counted(node, container) > start, timeout=timeout)


def check_undisturbed(node: Node, container: Container, *folders: str) -> None:
    """The container runs, counts, and nothing of a capture is left on it or in ``folders``."""
    status = container.status()
    assert container.state == "CONTAINER_RUNNING", f"{status}\n{node.read(container.log)[-2000:]!r}"
    wait_until_it_counts(node, container)
    facts = _facts(node, container)
    assert facts["freezer"] in ("THAWED", "0")
    assert facts["traced"] == []
    assert [line for line in facts["rules"] if "0xc114" in line or "CRIU" in line] == []
    assert facts["links"] == []
    for folder in (f"{RUN}/captures", f"{RUN}/locks", f"{STORE}/tmp", *folders):
        listing = node.exec(["ls", "-A", folder], check=False).stdout.split()
        assert listing == [], f"left in {folder}: {listing}"


def check(node: Node, container: Container) -> dict[str, dict[str, str]]:
    """The findings of ``podthaw capture --check`` by their names."""
    result = podthaw(node, "capture", name_of(container), "--check", "-o", "json", check=False)
    value = json.loads(result.stdout)
    assert value["ready"] == (result.status == 0)
    return {finding["check"]: finding for finding in value["findings"]}


def wait_ready(node: Node, container: Container) -> None:
    """Wait until the program has printed ``ready``."""
    node.wait("program", lambda: b"ready" in node.exec(["cat", container.log], check=False).output)


def pid_of(container: Container) -> int:
    """The first process, as the node sees it."""
    info = container.status(verbose=True).info["info"]
    return int(json.loads(info)["pid"])


def python(node: Node, code: str, *arguments: str, timeout: float = 120) -> Result:
    """Run Python in the node with this working tree's modules."""
    script = f"import sys; sys.path.insert(0, '/opt/podthaw/lib')\n{code}"
    return node.exec(["python3", "-B", "-c", script, *arguments], timeout=timeout)


_FACTS = """
import glob, json, os, subprocess
from shim import container, procfs
found = container.find(sys.argv[1])
run = lambda *words: subprocess.run(
    ["nsenter", "-n", "-t", str(found.pid), *words], capture_output=True, text=True
).stdout.splitlines()
state = "freezer.state" if found.cgroup_version == 1 else "cgroup.freeze"
tree, strangers = procfs.tasks(found)
print(json.dumps({
    "freezer": (found.freezer / state).read_text().strip(),
    "traced": [task.pid for task in tree if task.tracer],
    "rules": run("iptables", "-S") + run("ip6tables", "-S") + run("nft", "list", "tables"),
    "links": [name for name in os.listdir(f"/proc/{found.pid}/root/data") if "link_remap" in name],
}))
"""


def _facts(node: Node, container: Container) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(python(node, _FACTS, container.id).stdout)
    return value


def kill(node: Node, pids: Sequence[int]) -> None:
    """Kill processes of the node by their ids."""
    for pid in pids:
        node.exec(["kill", "-9", str(pid)], check=False)


def sleep(seconds: float) -> None:
    """Let the node go on for a moment."""
    time.sleep(seconds)
