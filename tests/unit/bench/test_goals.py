from __future__ import annotations

from typing import Any

import pytest

from tests.bench import goals
from tests.unit.bench.results import report


def words(judged: list[goals.Goal]) -> list[bool | None]:
    return [one.met for one in judged if one.goal]


def test_a_machine_that_reaches_everything_meets_every_goal() -> None:
    judged = goals.judge(report())
    assert words(judged) == [True] * 9
    assert goals.measured(judged)


def test_what_was_not_measured_is_not_met_and_stops_nothing() -> None:
    judged = goals.judge({"cpus": 2, "restores": None, "embeddings": None})
    assert {one.measured for one in judged} == {"not measured"}
    assert set(words(judged)) == {None}
    assert not goals.measured(judged)


def test_a_goal_that_is_missed_was_measured() -> None:
    value = report()
    slower(value, "mapped", "warm", "running", 100)
    judged = goals.judge(value)
    assert False in words(judged)
    assert goals.measured(judged)


def slower(value: dict[str, Any], contender: str, cache: str, key: str, factor: float) -> None:
    for one in value["restores"]["sizes"]:
        for run in one[cache]:
            if run["contender"] == contender:
                run[key] *= factor


def memory(value: dict[str, Any]) -> dict[str, Any]:
    """Of one of the eight mapped replicas."""
    one: dict[str, Any] = value["restores"]["replicas"]["runs"][-1]["memory"][0]
    return one


@pytest.mark.parametrize(
    ("index", "spoil"),
    [
        (0, lambda value: slower(value, "mapped", "warm", "running", 1.5)),
        (1, lambda value: slower(value, "mapped", "warm", "touched", 3)),
        (2, lambda value: value["restores"]["sizes"][-1]["warm"][-1].update(running=0.09)),
        (3, lambda value: slower(value, "mapped", "cold", "first_answer", 10)),
        (4, lambda value: value["restores"]["replicas"]["runs"][-1].update(running=[0.41] * 8)),
        (5, lambda value: memory(value).update(anonymous=40 << 20)),
        (6, lambda value: value["restores"]["starts"]["mapped"].update(restored=[0.2, 0.2])),
        (7, lambda value: value["embeddings"].update(ratio=24.9)),
        (8, lambda value: value["restores"]["sizes"][-1]["captures"]["mapped"].update(frozen=1.4)),
    ],
)
def test_a_figure_beyond_its_goal_is_not_met(index: int, spoil: Any) -> None:
    value = report()
    spoil(value)
    assert words(goals.judge(value))[index] is False


def test_the_slowest_of_eight_counts_against_their_share_of_a_core() -> None:
    value = report()
    judged = {one.figure.partition(":")[0]: one for one in goals.judge(value)}
    one = judged["8 replicas at once"]
    assert one.measured == "0.400 s / (0.050 s x 4 per core) = 2.00 times"
