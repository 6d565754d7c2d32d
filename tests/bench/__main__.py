"""All measurements, one after the other: ``python -m tests.bench``.

The results go to build/bench.json; a full run also writes the tables of docs/benchmarks.md and its
pictures. Exit status 1 when something could not be measured; a goal that is missed is told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import goals, pictures, tables

REPOSITORY = Path(__file__).resolve().parents[2]
REPORT = REPOSITORY / "build/bench.json"
DEMO = REPOSITORY / "build/demo.json"
DOCS = REPOSITORY / "docs"
PAGE = DOCS / "benchmarks.md"

PARTS = {
    "restores": "restores side by side",
    "embeddings": "the embeddings example, cold and restored (examples.demo)",
    "proxy": "what the proxy adds to a call",
    "shim": "what podthaw-runc adds to an ordinary start",
}
QUICKER = {
    "restores": ["--quick"],
    "proxy": ["--quick"],
    "shim": ["--calls", "20", "--starts", "5"],
}


def main() -> int:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of it, in four minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts; the page stays")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    options = parser.parse_args()
    if options.page:
        report = json.loads(REPORT.read_text())
        write_page(report)
        return 0
    report = measure(options.only or list(PARTS), quick=options.quick)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    if not options.quick and not options.only:
        write_page(report)
    return show(report)


def measure(parts: list[str], *, quick: bool) -> dict[str, Any]:
    """Run each part in a process of its own; one that fails does not stop the others."""
    report: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        "load_before": os.getloadavg()[0],
        "quick": quick,
        "seconds": {},
        "failed": [],
    }
    if report["load_before"] > (os.cpu_count() or 1) / 2:
        print(
            f"== note: this machine is busy (load average {report['load_before']:.1f}), "
            "which shows in the figures",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts:
            print(f"== {part}: {PARTS[part]}", flush=True)
            begun = time.monotonic()
            result = Path(scratch) / f"{part}.json"
            if subprocess.run(command(part, result, quick=quick), check=False).returncode:
                report["failed"].append(part)
            if (
                part == "embeddings"
                and DEMO.exists()
                and DEMO.stat().st_mtime > time.time() - (time.monotonic() - begun)
            ):
                result = DEMO
            report[part] = json.loads(result.read_text()) if result.exists() else None
            report["seconds"][part] = round(time.monotonic() - begun)
    report["goals"] = [vars(goal) for goal in goals.judge(report)]
    return report


def command(part: str, result: Path, *, quick: bool) -> list[str]:
    """The command line of a part."""
    if part == "embeddings":
        return [sys.executable, "-m", "examples.demo"]
    more = QUICKER.get(part, []) if quick else []
    return [sys.executable, "-m", f"tests.bench.{part}", "--json", str(result), *more]


def write_page(report: dict[str, Any]) -> None:
    """The generated parts of docs/benchmarks.md, and the pictures beside it."""
    PAGE.write_text(tables.rewrite(PAGE.read_text(), tables.sections(report)))
    for name, picture in pictures.draw(report).items():
        (DOCS / name).write_text(picture)
    print(f"== written: {PAGE.relative_to(REPOSITORY)} and its pictures")


def show(report: dict[str, Any]) -> int:
    """The goals, and what failed, on standard output; the exit status."""
    print("\n== goals")
    judged = goals.judge(report)
    for goal in judged:
        word = {True: "met", False: "NOT MET", None: "not measured" if goal.goal else ""}[goal.met]
        print(f"{goal.figure}\n    {goal.goal or '(no goal)'}: {goal.measured}   {word}")
    failures = (report.get("restores") or {}).get("failures", [])
    for line in [*failures, *(f"the part {part} did not end well" for part in report["failed"])]:
        print(f"FAILED: {line}")
    seconds = sum(report["seconds"].values())
    print(f"== {seconds} s; the figures are in build/{REPORT.name}")
    return 0 if goals.measured(judged) and not report["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
