"""The pictures of docs/benchmarks.md, made from build/bench.json. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from tests.bench import svg
from tests.bench.goals import Results, middle
from tests.bench.tables import TITLES

COLOURS = {"runc": 0, "crun": 1, "eager": 3, "mapped": 5, "cold": 4}


def draw(report: Mapping[str, Any]) -> dict[str, str]:
    """SVG files by name; one that has nothing to show is not there."""
    found = Results(report)
    drawn = {
        "bench-running.svg": _running_picture(found),
        "bench-touched.svg": _touched_picture(found),
        "bench-cold.svg": _cold_picture(found),
        "bench-memory.svg": _memory_picture(found),
    }
    return {name: picture for name, picture in drawn.items() if picture}


def _running_picture(found: Results) -> str:
    series = []
    for name, title in TITLES.items():
        points = []
        for size in found.sizes():
            values = [run["running"] for run in found.runs(size, "warm", name)]
            if values and name != "cold":
                points.append((size / 1024, statistics.median(values)))
        if points:
            series.append(svg.Series(title, points, COLOURS[name]))
    if not series:
        return ""
    x = svg.Axis(
        "memory of the server, GiB", [0, *(size / 1024 for size in found.sizes() if size > 256)]
    )
    return svg.lines(
        "Time until it runs, snapshot in the page cache", x, svg.Axis("seconds"), series
    )


def _touched_picture(found: Results) -> str:
    size = max(found.sizes(), default=0)
    rows = []
    for last, word in (("read", "read"), ("write", "written")):
        for name, title in TITLES.items():
            runs = found.runs(size, "warm", name, last_touch=last) if size else []
            if runs:
                running, answer, all_of_it = (
                    middle([run[key] for run in runs])
                    for key in ("running", "first_answer", "touched")
                )
                parts = (running, answer - running, all_of_it - answer)
                rows.append(svg.Bar(f"{title}, {word}", parts))
    if not rows:
        return ""
    return svg.bars(
        f"{size / 1024:g} GiB, snapshot in the page cache: until every page was touched",
        svg.Axis("seconds"),
        rows,
        legend=["until it runs", "first answer, touches 5 %", "every page touched"],
    )


def _cold_picture(found: Results) -> str:
    sizes = [size for size in found.sizes() if found.size(size)["cold"]]
    if not sizes:
        return ""
    size, rows, files = max(sizes), [], []
    for name, title in TITLES.items():
        runs = found.runs(size, "cold", name, first_touch="/touch/0.05/64/read", known=True)
        if runs:
            files += [run["read_file"] for run in runs]
            running, answer = (
                middle([run[key] for run in runs]) for key in ("running", "first_answer")
            )
            rows.append(svg.Bar(title, (running, answer - running)))
    return svg.bars(
        f"{size / 1024:g} GiB, nothing of the snapshot in the page cache: until the first answer",
        svg.Axis("seconds"),
        rows,
        legend=["until it runs", "first answer, touches 5 %"],
        mark=("reading the file", middle(files)),
    )


def _memory_picture(found: Results) -> str:
    counts = {one["count"] for one in found.replicas()}
    if not counts:
        return ""
    rows = []
    for name, title in TITLES.items():
        if name != "cold" and found.together(name, max(counts)):
            rows.append(svg.Bar(title, (found.own_memory(name, max(counts)) / 2**20,)))
    return svg.bars(
        f"Memory of its own of an idle replica, one of {max(counts)} of "
        f"{found.replica_size() / 1024:g} GiB each",
        svg.Axis("MiB"),
        rows,
    )
