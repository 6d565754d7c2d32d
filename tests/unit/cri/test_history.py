from __future__ import annotations

import pytest

from cri import history
from cri.records import Exit, Record
from shim.errors import Unfit
from shim.plan import Outcome, Result
from tests.unit.cri.test_records import decision


def run(finished: float | None, code: int = 1, outcome: Outcome = "restored") -> Record:
    return Record(
        decision=decision(),
        container_id="c",
        result=Result(outcome=outcome, container_id="c"),
        exit=None if finished is None else Exit(finished=finished, code=code),
    )


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [run(None)],
        [run(100.0)],
        [run(100.0), run(161.0)],
        [run(100.0), run(101.0, code=0)],
        [run(100.0, outcome="cold"), run(101.0, outcome="cold")],
        [run(100.0), run(101.0, outcome="cold")],
    ],
    ids=["first", "running", "one", "apart", "status 0", "cold runs", "one cold"],
)
def test_it_is_restored_again(runs: list[Record]) -> None:
    history.check(runs)


@pytest.mark.parametrize(
    "runs",
    [
        [run(100.0), run(160.0)],
        [run(160.0, code=137), run(100.0)],
        [run(1.0), run(100.0), run(110.0), run(9999.0, outcome="cold")],
    ],
    ids=["within a minute", "in any order", "and stays cold"],
)
def test_after_two_failures_within_a_minute_it_starts_cold(runs: list[Record]) -> None:
    with pytest.raises(Unfit, match="failed twice within a minute after it was restored"):
        history.check(runs)


def test_only_restored_runs_without_an_end_are_asked_for() -> None:
    unknown = run(None)
    assert history.unknown_ends([unknown, run(1.0), run(None, outcome="cold")]) == [unknown]


def test_a_container_that_runs_has_no_end() -> None:
    assert history.exit_of(0, 0) is None
    assert history.exit_of(2_500_000_000, 3) == Exit(finished=2.5, code=3)
