"""The tables of docs/benchmarks.md from results.json: ``python -m tests.gpu report FILE…``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

GIB = 1 << 10


def report(files: Iterable[Path]) -> str:
    """Markdown of one or several runs."""
    results = [json.loads(path.read_text()) for path in files]
    parts = [_facts(result) for result in results[:1]]
    runs = [run for result in results for run in result["runs"]]
    figures = [figure for result in results for figure in result["figures"]]
    if figures:
        newest = {figure["mib"]: figure for figure in figures}
        parts += [_ways(newest.values()), _stages(newest.values()), _captures(newest.values())]
    if runs:
        parts.append(_cases(runs))
    return "\n\n".join(parts) + "\n"


def _facts(result: dict[str, Any]) -> str:
    facts = result["facts"]
    model, driver, memory = (part.strip() for part in facts["gpu"].split(",")[:3])
    return (
        f"{facts['date']}: {model} ({memory}), driver {driver}, {facts['cpus']} processors, "
        f"kernel {facts['kernel']}, CRIU {facts['criu'].removeprefix('Version: ')}; fresh memory "
        f"comes at {facts['fresh_memory']}, the disk takes {facts['disk'].split()[0]} GB/s."
    )


def _ways(figures: Iterable[dict[str, Any]]) -> str:
    rows = []
    for one in figures:
        place = one["in_place"]["first"]
        goal = 1.15 * place + 0.5
        rows.append(
            [
                f"{one['mib'] / GIB:g} GiB",
                f"{one['cold']:.2f} s",
                f"{one['stock']['first']:.2f} s",
                f"{one['podthaw']['first']:.2f} s",
                f"{one['times_faster']:.1f} times",
                f"{place:.2f} s",
                f"{goal:.2f} s",
            ]
        )
    head = [
        "weights",
        "cold start",
        "stock way",
        "Podthaw",
        "",
        "in place",
        "1.15 x in place + 0.5 s",
    ]
    return _table(head, rows)


def _stages(figures: Iterable[dict[str, Any]]) -> str:
    rows = []
    for one in figures:
        for name, way in (("stock way", "stock"), ("Podthaw", "podthaw")):
            restores = one[way]["restores"]
            stages = {
                stage: median(restore["phases"][stage] for restore in restores)
                for stage in ("check", "rootfs", "criu", "cuda")
            }
            start = median(restore["start"] for restore in restores)
            rest = start - sum(stages.values())
            cells = [f"{value:.2f}" for value in (*stages.values(), rest, start)]
            rows.append([f"{one['mib'] / GIB:g} GiB", name, *cells])
    head = [
        "weights",
        "way",
        "check",
        "root filesystem",
        "CRIU",
        "driver",
        "the rest",
        "StartContainer",
    ]
    return _table(head, rows)


def _captures(figures: Iterable[dict[str, Any]]) -> str:
    rows = []
    for one in figures:
        told = one["podthaw"]["capture"]
        phases = told["phases"]
        rows.append(
            [
                f"{one['mib'] / GIB:g} GiB",
                f"{told['size'] / 1e9:.1f} GB",
                *(f"{phases[name]:.2f}" for name in ("cuda_checkpoint", "memory", "cuda_resume")),
                f"{told['still']:.1f} s",
                f"{told['seconds']:.1f} s",
            ]
        )
    head = ["weights", "snapshot", "driver's checkpoint", "CRIU's dump", "driver's restore"]
    return _table([*head, "stood still", "the whole capture"], rows)


def _cases(runs: Iterable[dict[str, Any]]) -> str:
    rows = []
    for run in runs:
        first = median(restore["first"] for restore in run["restores"])
        rows.append(
            [
                run["about"],
                f"{run['cold']:.2f} s",
                f"{run['capture']['still']:.1f} s",
                f"{first:.2f} s",
                f"{len(run['restores'])}",
            ]
        )
    return _table(["program", "cold", "capture: stood still", "restored", "restores"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
