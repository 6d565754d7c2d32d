from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shim import cgroups, oom


class Node:
    """Processes as files, and when each is seen in the control groups."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = top
        self.rounds: list[set[int]] = []
        self.asked = 0
        monkeypatch.setattr(cgroups, "processes", self._processes)

    def _processes(self, groups: list[str]) -> set[int]:
        assert groups == ["/group"]
        self.asked += 1
        return set(self.rounds[min(self.asked, len(self.rounds)) - 1])

    def add(self, pid: int, value: int) -> None:
        (self.top / str(pid)).mkdir()
        (self.top / str(pid) / "oom_score_adj").write_text(f"{value}\n")

    def values(self) -> dict[int, int]:
        return {
            int(path.parent.name): int(path.read_text())
            for path in self.top.glob("*/oom_score_adj")
        }


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def spec(value: object) -> dict[str, Any]:
    return {"process": {"oomScoreAdj": value}}


def test_inherited_values_become_the_requests_and_own_ones_stay_unless_they_protect(
    node: Node,
) -> None:
    for pid, value in ((1, 500), (2, 500), (3, 900), (4, -998), (5, 700)):
        node.add(pid, value)
    node.rounds = [{1, 2, 3, 4, 5, 6}]  # 6 has ended
    oom.apply(spec(600), ["/group"], 1, str(node.top))
    assert node.values() == {1: 600, 2: 600, 3: 900, 4: 600, 5: 700}


def test_a_lower_value_of_the_request(node: Node) -> None:
    node.add(1, 1000)
    node.add(2, 1000)
    node.rounds = [{1, 2}]
    oom.apply(spec(-997), ["/group"], 1, str(node.top))
    assert node.values() == {1: -997, 2: -997}


def test_processes_that_are_forked_meanwhile(node: Node) -> None:
    for pid in (1, 2, 3):
        node.add(pid, -5)
    node.rounds = [{1}, {1, 2}, {1, 2, 3}]
    oom.apply(spec(0), ["/group"], 1, str(node.top))
    assert node.values() == {1: 0, 2: 0, 3: 0}


def test_a_container_that_always_forks_does_not_hold_it_up(node: Node) -> None:
    node.rounds = [{number} for number in range(100)]
    oom.apply(spec(0), ["/group"], 0, str(node.top))
    assert node.asked <= 10


@pytest.mark.parametrize("asked", [{}, spec(None), spec("5"), spec(1.5), {"process": None}])
def test_a_request_that_says_nothing(node: Node, asked: dict[str, Any]) -> None:
    oom.apply(asked, ["/group"], 1, str(node.top))
    assert node.asked == 0


def test_without_the_first_process_only_protection_goes(node: Node) -> None:
    node.add(7, 100)
    node.add(8, 300)
    node.rounds = [{7, 8}]
    oom.apply(spec(200), ["/group"], 0, str(node.top))
    assert node.values() == {7: 200, 8: 300}


def test_of_a_real_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), 19)
        os._exit(0)
    try:
        monkeypatch.setattr(cgroups, "processes", lambda groups: {pid})  # noqa: ARG005
        oom.apply(spec(654), [], pid)
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "654\n"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
