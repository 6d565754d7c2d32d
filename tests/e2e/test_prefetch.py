"""Reading a snapshot ahead for a pod, from a page cache that has nothing of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.pods import Container, Pod, Running, eventually
from tests.e2e.stack import Stack, is_cold
from tests.node.node import PREFIX

pytestmark = pytest.mark.node

MIB = 1 << 20
BIG = Pod(
    name="ahead",
    containers=[Container(args=("-B", "-u", "-m", "workloads.runner", "big-memory"))],
)
"""A process with 64 MiB of random memory that it does not touch again, besides a small server."""

HOT = "/var/lib/podthaw/node/hot"
DROPIN = "/etc/containerd/conf.d/50-podthaw.toml"

DROP = r"""
import os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(f"{folder}/{name}", "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
"""

CACHED = """
import json, os
from cri.prefetch.cache import resident
fd = os.open(sys.argv[1], os.O_RDONLY)
print(sum(resident(fd, start, end) for start, end in json.loads(sys.argv[2])))
"""


class Snapshot:
    """One snapshot, and what of it is in the node's page cache."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack = stack
        self.name = name
        self.folder = stack.snapshot(f"e2e/{name}")
        self.hot_file = f"{HOT}/{self.folder.rpartition('/')[2]}.json"
        memory = json.loads(stack.node.read(f"{self.folder}/memory.json"))
        self.extents = [(start, start + length) for start, length in memory["extents"]]
        self.size: int = memory["size"]

    @property
    def stored(self) -> int:
        return sum(end - start for start, end in self.extents)

    def cached(self, *ranges: tuple[int, int]) -> int:
        """Bytes of ranges of ``pages`` in the page cache; of all of it without any."""
        script = f"import sys; sys.path.insert(0, {f'{PREFIX}/lib'!r}); {CACHED}"
        arguments = [f"{self.folder}/pages", json.dumps(ranges or [(0, self.size)])]
        answer = self.stack.node.exec(["python3", "-c", script, *arguments])
        return int(answer.stdout)

    def drop(self) -> None:
        """Have nothing of it in the page cache; nobody may have it mapped."""

        def dropped() -> bool:
            self.stack.node.exec(["python3", "-c", DROP, self.folder])
            return self.cached() == 0

        assert eventually(dropped), f"{self.cached()} bytes stay in the page cache"

    def known(self) -> dict[str, Any]:
        """What the node has learned."""
        text = self.stack.node.exec(["cat", self.hot_file], check=False).stdout
        value: dict[str, Any] = json.loads(text) if text else {"ranges": [], "exact": None}
        return value

    def hot(self) -> list[tuple[int, int]]:
        """The ranges of it, sorted."""
        return sorted((start, end) for start, end in self.known()["ranges"])

    def learn(self) -> list[tuple[int, int]]:
        """Have the node learn from one restore, and drop the page cache."""
        if not self.hot():
            pod = self.stack.pods.start(BIG.restoring(self.name, on_failure="fail"))
            assert eventually(self.hot)
            self.stack.pods.remove(pod)
        self.drop()
        return self.hot()


def told(stack: Stack) -> list[dict[str, Any]]:
    """What the daemon's log tells of each reader that read something, in order."""
    lines = re.findall(r"read \d+ bytes ahead (.*)", stack.node.logs("proxy"))
    return [
        {key: json.loads(value) for key, value in re.findall(r'(\w+)=("[^"]*"|[\d.]+)', line)}
        for line in lines
    ]


@pytest.fixture(scope="module")
def snapshot(stack: Stack) -> Snapshot:
    pod = stack.pods.start(BIG)
    stack.capture(pod, "ahead")
    stack.pods.remove(pod)
    return Snapshot(stack, "ahead")


@pytest.fixture
def slow(stack: Stack) -> Iterator[int]:
    """The daemon reads ahead with few bytes a second; how many."""
    before = stack.node.read(DROPIN)
    changed = before.replace(b'prefetch_bandwidth = "none"', b'prefetch_bandwidth = "10MB"')
    assert changed != before
    stack.node.write(DROPIN, changed.decode())
    stack.node.kill("proxy")
    stack.node.start_proxy()
    yield 10_000_000
    stack.node.write(DROPIN, before.decode())
    stack.node.kill("proxy")
    stack.node.start_proxy()


def asking(name: str) -> Pod:
    """A pod that asks for the snapshot."""
    return BIG.restoring(name, on_failure="fail")


def test_a_node_learns_what_a_replica_touches(stack: Stack, snapshot: Snapshot) -> None:
    hot = snapshot.learn()
    assert all(0 <= start < end <= snapshot.size for start, end in hot)
    # The small server, and not the 64 MiB that nobody looked at.
    assert MIB // 4 < sum(end - start for start, end in hot) < 48 * MIB
    mode = stack.node.exec(["stat", "-c", "%a %u", snapshot.hot_file]).stdout
    assert mode.split() == ["600", "0"]


def test_what_large_folios_hide_is_learned_from_a_cold_cache(
    stack: Stack, snapshot: Snapshot
) -> None:
    def learned(pod: Running) -> int:
        assert eventually(lambda: snapshot.known()["exact"] is not None)
        stack.pods.remove(pod)
        return sum(end - start for start, end in snapshot.hot())

    stack.node.exec(["rm", "-f", snapshot.hot_file])
    stack.node.exec(["cat", f"{snapshot.folder}/pages"])
    pod = stack.pods.start(asking("ahead"))
    pod.observe()  # reads the 64 MiB
    if not eventually(lambda: snapshot.known()["exact"] is False):
        pytest.skip("the page cache of this kernel's file system has no large folios")
    roughly = learned(pod)
    snapshot.drop()
    pod = stack.pods.start(asking("ahead"))
    assert eventually(lambda: snapshot.known()["exact"])
    assert learned(pod) < roughly


def test_all_is_read_while_the_sandbox_is_made(stack: Stack, snapshot: Snapshot) -> None:
    snapshot.learn()
    before = len(told(stack))
    running = stack.pods.sandbox(asking("ahead"))
    assert eventually(lambda: snapshot.cached(*snapshot.extents) == snapshot.stored)
    assert eventually(lambda: len(told(stack)) == before + 1)
    (line,) = told(stack)[before:]
    assert line["snapshot"] == stack.digest("e2e/ahead")
    assert "stopped" not in line
    assert line["hot"] > 0
    # What the kernel had read beside the hot pages does not count twice.
    assert snapshot.stored * 0.8 < line["hot"] + line["rest"] <= snapshot.stored
    stack.pods.create(running, running.pod.containers[0])
    stack.pods.start_container(running, running.pod.containers[0].name)
    running.wait_ready()
    assert not is_cold(running)


def test_hot_pages_are_there_before_the_container_is_created(
    stack: Stack, snapshot: Snapshot, slow: int
) -> None:
    hot = snapshot.learn()
    stored = [
        (max(one[0], two[0]), min(one[1], two[1]))
        for one in hot
        for two in snapshot.extents
        if max(one[0], two[0]) < min(one[1], two[1])
    ]
    size = sum(end - start for start, end in stored)
    stack.pods.sandbox(asking("ahead"))
    assert eventually(lambda: snapshot.cached(*stored) == size, 2 + 2 * size / slow)
    assert snapshot.cached(*snapshot.extents) < snapshot.stored


def test_reading_ends_with_the_pod(stack: Stack, snapshot: Snapshot, slow: int) -> None:
    assert slow
    snapshot.drop()
    before = len(told(stack))
    first, second = (stack.pods.sandbox(asking("ahead")) for _ in range(2))
    assert eventually(snapshot.cached)
    stack.pods.remove(first)
    assert len(told(stack)) == before
    stack.pods.remove(second)
    assert eventually(lambda: len(told(stack)) > before)
    (line,) = told(stack)[before:]  # one reader for both
    assert line["stopped"] == "cancelled"
    assert 0 < line["bytes"] < snapshot.stored
    now = snapshot.cached()
    time.sleep(1)
    assert snapshot.cached() == now


def test_the_bandwidth_is_kept(stack: Stack, snapshot: Snapshot, slow: int) -> None:
    snapshot.drop()
    before = len(told(stack))
    stack.pods.sandbox(asking("ahead"))
    assert eventually(lambda: len(told(stack)) > before, 60)
    (line,) = told(stack)[before:]
    assert "stopped" not in line
    # The first piece is read at once.
    assert line["bytes"] - 4 * MIB <= slow * line["seconds"]


def test_nothing_is_read_for_a_pod_that_does_not_ask(stack: Stack, snapshot: Snapshot) -> None:
    snapshot.drop()
    stack.pods.start(BIG)
    assert snapshot.cached() == 0


def test_status_tells_what_is_shared_and_what_is_not(stack: Stack, snapshot: Snapshot) -> None:
    assert snapshot.size
    pods = [stack.pods.start(asking("ahead")) for _ in range(2)]
    idle, busy = pods
    busy.observe()  # reads the 64 MiB
    found = {}
    for one in json.loads(stack.podthaw("status", "-n", "e2e", "-o", "json").stdout):
        found[one["pod"]] = one["memory"]
    assert found[busy.name]["shared"] >= 64 * MIB
    for pod in pods:
        assert 0 < found[pod.name]["private"] < 48 * MIB
    assert found[idle.name]["shared"] < found[busy.name]["shared"]
    table = stack.podthaw("status", f"e2e/{busy.name}").stdout.splitlines()
    assert "SHARED   PRIVATE" in re.sub(" {3,}", "   ", table[0])
    assert " MiB " in table[1]


def test_what_was_learned_goes_with_the_snapshot(stack: Stack, snapshot: Snapshot) -> None:
    snapshot.learn()
    stack.podthaw("remove", "e2e/ahead")
    stack.podthaw("gc")
    assert not snapshot.hot()
