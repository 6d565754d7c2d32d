from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import stages

SUITE = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2
@pytest.fixture
def broken(): raise ValueError
def test_broken(broken): pass
@pytest.mark.skip
def test_skipped(): pass
"""


def test_outcomes_are_those_of_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "--junit-xml=r.xml", "-p", "no:cacheprovider"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert stages.outcomes(tmp_path / "r.xml") == {"passed": 1, "failed": 2, "skipped": 1}
    assert stages.outcomes(tmp_path / "absent.xml") == {}


@pytest.mark.parametrize("failing", [None, *stages.STAGES])
def test_the_first_stage_that_fails_is_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: str | None
) -> None:
    ran = []

    def run(stage: str) -> tuple[int, dict[str, int]]:
        ran.append(stage)
        counts = (
            {"passed": 7, "failed": 0, "skipped": 1} if stages.STAGES[stage][0] != "make" else {}
        )
        return (2 if stage == failing else 0), counts

    monkeypatch.setattr(stages, "run", run)
    assert stages.main() == (2 if failing else 0)
    assert ran[-1] == (failing or "on the node")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILED" if failing else "good: 14 passed, 0 failed, 2 skipped tests in")


def test_times_are_told_in_minutes() -> None:
    assert stages.minutes(3725.9) == "62 min 05 s"


@pytest.mark.parametrize(
    ("stage", "failed", "second", "status"),
    [
        ("on the node", 2, 2, 0),
        ("on the node", 2, 1, 1),
        ("on the node", 4, 4, 1),
        ("unit", 1, 1, 1),
    ],
)
def test_few_failures_on_the_node_are_asked_again(
    monkeypatch: pytest.MonkeyPatch, stage: str, failed: int, second: int, status: int
) -> None:
    asked: list[tuple[str, ...]] = []
    tries = 2 if stage == stages.ON_THE_NODE and failed <= stages.AGAIN else 1

    def run_pytest(_marks: str, _report: Path, *more: str) -> tuple[int, dict[str, int]]:
        asked.append(more)
        if not more:
            return 1, {"passed": 9, "failed": failed, "skipped": 0}
        return int(second < failed), {"passed": second, "failed": failed - second, "skipped": 0}

    monkeypatch.setattr(stages, "pytest", run_pytest)
    found, counts = stages.run(stage)
    assert found == status
    assert len(asked) == tries
    good_later = second if tries == 2 else 0
    assert (counts["passed"], counts["failed"]) == (9 + good_later, failed - good_later)
    assert counts.get("at the second try", 0) == good_later
