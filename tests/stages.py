"""Everything that must hold, in the order of what it takes: ``python -m tests.stages``.

Lint, the tests that need no node, then the node's images and the tests on it. The first stage that
fails is the last one. At the end: how long each took, and how many tests there were.
"""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = REPOSITORY / "build"

ON_THE_NODE = "on the node"

STAGES = {
    "lint": ["make", "lint"],
    "unit": ["pytest", "not node and not bench"],
    "node": ["make", "node"],
    ON_THE_NODE: ["pytest", "node and not bench"],
}


AGAIN = 3
"""Up to so many tests on the node are asked a second time, by themselves.

They wait for real daemons with real time limits, and a shared machine can stall for longer. What
fails twice has failed; what failed once is told at the end.
"""

TESTS_FAILED = 1
"""pytest's exit status when all went its way but for tests that failed."""


def run(stage: str) -> tuple[int, dict[str, int]]:
    """A stage's exit status, and its tests by outcome."""
    tool, what = STAGES[stage]
    if tool == "make":
        return subprocess.run([tool, "--no-print-directory", what], check=False).returncode, {}
    status, counts = pytest(what, BUILD / f"tests-{stage.replace(' ', '-')}.xml")
    failed = counts.get("failed", 0)
    if stage == ON_THE_NODE and status == TESTS_FAILED and 0 < failed <= AGAIN:
        print(f"== {stage}: {failed} failed, and are asked again", flush=True)
        status, second = pytest(what, BUILD / "tests-again.xml", "--last-failed")
        passed = second.get("passed", 0)
        counts["passed"] += passed
        counts["failed"] -= passed
        counts["at the second try"] = passed
    return status, counts


def pytest(marks: str, report: Path, *more: str) -> tuple[int, dict[str, int]]:
    """The exit status of pytest, and its tests by outcome."""
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", marks, f"--junit-xml={report}", *more]
    status = subprocess.run(command, check=False).returncode
    return status, outcomes(report)


def outcomes(report: Path) -> dict[str, int]:
    """The counts of a JUnit report; none when there is no report."""
    if not report.exists():
        return {}
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for suite in ET.parse(report).getroot().iter("testsuite"):  # noqa: S314 - pytest's own
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        counts["failed"] += failed
        counts["skipped"] += skipped
        counts["passed"] += int(suite.get("tests", 0)) - failed - skipped
    return counts


def minutes(seconds: float) -> str:
    """A time as people say it."""
    return f"{int(seconds // 60)} min {int(seconds % 60):02} s"


def main() -> int:
    """Run the stages; the exit status is that of the one that failed."""
    BUILD.mkdir(exist_ok=True)
    lines: list[str] = []
    total = {"passed": 0, "failed": 0, "skipped": 0}
    begun = time.monotonic()
    status = 0
    for stage in STAGES:
        print(f"== {stage}", flush=True)
        began = time.monotonic()
        status, counts = run(stage)
        for outcome, number in counts.items():
            total[outcome] = total.get(outcome, 0) + number
        told = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)
        took = minutes(time.monotonic() - began)
        lines.append(f"{stage:12} {took:>12}  {told or ('failed' if status else 'good')}")
        if status:
            break
    print("\n".join(["", *lines]))
    told = ", ".join(f"{number} {outcome}" for outcome, number in total.items())
    print(f"{'FAILED' if status else 'good'}: {told} tests in {minutes(time.monotonic() - begun)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
