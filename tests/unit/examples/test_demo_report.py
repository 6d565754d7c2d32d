from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from examples.demo.report import Outcome, Restored, as_json, table, timeline
from examples.demo.starts import Start


def a_start(pod: str, answer: float, *, address: str = "10.88.0.9") -> Start:
    return Start(
        pod=pod,
        address=address,
        dropped=100.0,
        sandbox=100.2,
        asked=100.5,
        started=100.75,
        answered=100.5 + answer,
        embeddings=[[1.0]],
    )


@pytest.fixture
def outcome() -> Outcome:
    return Outcome(
        cold=a_start("cold-n1", 9.0, address="10.88.0.2"),
        one_by_one=[
            Restored(a_start("first-n1", 0.5), "restored", equal=True, phases={"criu": 0.3}),
            Restored(
                a_start("second-n1", 0.75),
                "restored",
                equal=False,
                phases={},
                findings=("it is odd",),
            ),
        ],
        together=[
            Restored(a_start("third-n1", 2.25), "restored", equal=True, phases={"criu": 0.3})
        ],
        capture={"seconds": 1.5, "size": 12},
        machine={"cpus": 2},
    )


def test_the_clock_starts_when_kubelet_asks() -> None:
    start = a_start("p", 2.0)
    assert start.start_s == pytest.approx(0.25)
    assert start.first_answer_s == pytest.approx(2.0)
    assert start.from_manifest_s == pytest.approx(2.5)


def test_the_ratio_is_by_the_slowest_of_the_single_restores(outcome: Outcome) -> None:
    assert outcome.ratio == pytest.approx(12.0)


def test_json_has_what_was_measured(outcome: Outcome) -> None:
    written: dict[str, Any] = as_json(outcome)
    assert written["cold_start_s"] == 0.25
    assert written["cold_first_answer_s"] == 9.0
    assert written["ratio"] == 12.0
    assert [one["first_answer_s"] for one in written["restores"]] == [0.5, 0.75]
    assert [one["equal"] for one in written["restores"]] == [True, False]
    assert written["restores"][1]["findings"] == ["it is odd"]
    assert written["restores"][0]["phases"] == {"criu": 0.3}
    assert [one["pod"] for one in written["restores_together"]] == ["third-n1"]
    assert written["capture"] == {"seconds": 1.5, "size": 12}


def test_table_has_a_line_for_each_pod_and_shouts_at_a_difference(outcome: Outcome) -> None:
    lines = table(outcome).splitlines()
    assert [line.split()[0] for line in lines] == [
        "POD",
        "cold-n1",
        "first-n1",
        "second-n1",
        "third-n1",
    ]
    assert "restored, 3 at once" in lines[4]
    assert "NO" in lines[3].split()
    assert "yes" in lines[2].split()
    assert "10.88.0.2" in lines[1]
    # The columns stand below each other.
    assert {line.index(" s ") for line in lines[1:]}


def test_bars_are_to_scale(outcome: Outcome) -> None:
    lines = {line.split()[0]: line for line in timeline(outcome).splitlines()[1:]}

    def cells(pod: str) -> int:
        return lines[pod].count("░") + lines[pod].count("█")

    assert cells("cold-n1") == pytest.approx(60, abs=1)
    assert cells("third-n1") == pytest.approx(15, abs=1)
    assert lines["first-n1"].endswith("0.50 s")


@pytest.mark.parametrize("started", [0.0, 100.6, 101.5, 1e9])
def test_a_pod_may_answer_before_it_is_noted_as_running(outcome: Outcome, started: float) -> None:
    early = replace(a_start("early-n1", 0.5), started=started)
    odd = replace(outcome, one_by_one=[Restored(early, "restored", equal=True, phases={})])
    bars = timeline(odd).splitlines()
    assert max(len(bar) for bar in bars) < 100
    assert bars[2].startswith("early-n1")
    assert bars[2].endswith("0.50 s")
