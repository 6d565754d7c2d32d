"""The project's goals against what was measured. Pure.

What could not be measured is not met and says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STOCK = "runc"
OURS = "mapped"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One line of the table."""

    figure: str
    goal: str
    measured: str
    met: bool | None
    """None: not measured, or a figure that explains the one above and has no goal."""


class MissingError(Exception):
    """The figure is not among the results."""


def judge(report: Mapping[str, Any]) -> list[Goal]:
    """The table of issue 5, and the figures that explain it, from the content of bench.json."""
    found = Results(report)
    return [
        *_faster(found),
        _growth(found),
        *_cold(found),
        *_together(found),
        _start(found),
        _embeddings(report),
        _frozen(found),
    ]


def measured(goals: Sequence[Goal]) -> bool:
    """Whether every goal was measured; one that was missed is a result like any other."""
    return all(goal.met is not None for goal in goals if goal.goal)


class Results:
    """The results of ``restores``, by size, contender and cache."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.restores: Mapping[str, Any] = report.get("restores") or {}
        self.cpus = int(report.get("cpus") or 1)

    def sizes(self) -> list[int]:
        """Mebibytes."""
        return [one["mib"] for one in self.restores.get("sizes", [])]

    def size(self, mib: int) -> Mapping[str, Any]:
        """All of one size."""
        for one in self.restores.get("sizes", []):
            if one["mib"] == mib:
                return dict(one)
        raise MissingError(f"{mib} MiB")

    def runs(
        self, mib: int, cache: str, contender: str, **wanted: str | bool
    ) -> list[Mapping[str, Any]]:
        """Runs of a contender, ``cache`` being warm or cold."""
        return [
            run
            for run in self.size(mib)[cache]
            if run["contender"] == contender
            and all(run[key] == value for key, value in wanted.items())
        ]

    def median(self, mib: int, cache: str, contender: str, key: str, **wanted: str | bool) -> float:
        """The median of one figure over the runs."""
        return middle([run[key] for run in self.runs(mib, cache, contender, **wanted)])

    def replicas(self) -> list[Mapping[str, Any]]:
        """All runs of replicas that started at once."""
        return list((self.restores.get("replicas") or {}).get("runs", []))

    def together(self, contender: str, count: int) -> list[Mapping[str, Any]]:
        """Runs of so many replicas at once."""
        return [
            one
            for one in self.replicas()
            if one["contender"] == contender and one["count"] == count
        ]

    def replica_size(self) -> int:
        """Mebibytes of a replica's memory."""
        try:
            return int(self.restores["replicas"]["mib"])
        except KeyError:
            raise MissingError("replicas") from None

    def alone(self, contender: str) -> float:
        """Seconds to running of a single replica."""
        return middle([one["running"][0] for one in self.together(contender, 1)])

    def slowest(self, contender: str, count: int) -> float:
        """Seconds to running of the slowest of so many at once; the median over the runs."""
        return middle([max(one["running"]) for one in self.together(contender, count)])

    def own_memory(self, contender: str, count: int) -> float:
        """Bytes that an idle replica takes for itself: the largest of so many."""
        figures = [
            max(memory["anonymous"] + memory["page_tables"] for memory in one["memory"])
            for one in self.together(contender, count)
        ]
        return middle(figures)

    def capture(self, mib: int, contender: str) -> Mapping[str, Any]:
        """How the snapshot was made."""
        try:
            return dict(self.size(mib)["captures"][contender])
        except KeyError:
            raise MissingError(f"capture of {mib} MiB") from None


def middle(values: Sequence[float]) -> float:
    """The median; MissingError when there are none."""
    if not values:
        raise MissingError("no run")
    return statistics.median(values)


def _goal(figure: str, goal: str, measure: Callable[[], tuple[str, bool | None]]) -> Goal:
    try:
        text, good = measure()
    except MissingError:
        text, good = "not measured", None
    return Goal(figure=figure, goal=goal, measured=text, met=good)


def _ratio(one: float, other: float) -> str:
    return f"{one:.3f} s / {other:.3f} s = {one / other:.2f} times"


def _faster(found: Results) -> list[Goal]:
    def ratio(key: str, least: float, **wanted: str) -> Callable[[], tuple[str, bool]]:
        def measure() -> tuple[str, bool]:
            stock = found.median(1024, "warm", STOCK, key, **wanted)
            ours = found.median(1024, "warm", OURS, key, **wanted)
            return _ratio(stock, ours), stock / ours >= least

        return measure

    def alone() -> tuple[str, None]:
        stock = found.median(1024, "warm", STOCK, "running")
        ours = middle([run["phases"]["criu"] for run in found.runs(1024, "warm", OURS)])
        return _ratio(stock, ours), None

    def written() -> tuple[str, None]:
        stock = found.median(1024, "warm", STOCK, "touched", last_touch="write")
        return _ratio(stock, found.median(1024, "warm", OURS, "touched", last_touch="write")), None

    title = "restore, 1 GiB, warm, `runc restore` against Podthaw's StartContainer"
    return [
        _goal(f"{title}: to running", "at least 20 times", ratio("running", 20)),
        _goal("the same, `runc restore` on both sides", "", alone),
        _goal(
            f"{title}, until every page was touched (read)",
            "at least 5 times",
            ratio("touched", 5, last_touch="read"),
        ),
        _goal("the same, until every page was written", "", written),
    ]


def _growth(found: Results) -> Goal:
    def measure() -> tuple[str, bool]:
        small = found.median(256, "warm", OURS, "running")
        large = found.median(8192, "warm", OURS, "running")
        return _ratio(large, small), large / small <= 1.3

    return _goal("growth of time to running from 0.25 to 8 GiB, warm", "at most 1.3 times", measure)


def _cold(found: Results) -> list[Goal]:
    def share(
        path: str, goal: float | None, *, known: bool = True, before: bool = False
    ) -> Callable[[], tuple[str, bool | None]]:
        def measure() -> tuple[str, bool | None]:
            runs = found.runs(8192, "cold", OURS, first_touch=path, known=known)
            earlier = [run["before"] if before else 0.0 for run in runs]
            answer = middle([run["first_answer"] for run in runs]) + middle(earlier)
            file = middle([run["read_file"] for run in runs])
            text = f"{answer:.2f} s / {file:.2f} s = {answer / file:.0%}"
            return text, None if goal is None else answer / file <= goal

        return measure

    pieces, pages = "/touch/0.05/64/read", "/touch/0.05/1/read"
    return [
        _goal(
            "8 GiB, cold cache, from StartContainer to the first answer of a server that touches "
            "5 % (pieces of 256 KiB), against reading the file",
            "at most 15 %",
            share(pieces, 0.15),
        ),
        _goal(
            "the same, the sandbox and CreateContainer included",
            "",
            share(pieces, None, before=True),
        ),
        _goal(
            "the first such replica on a node, which does not know yet what is touched first",
            "",
            share(pieces, None, known=False),
        ),
        _goal("single pages all over the memory instead of pieces", "", share(pages, None)),
    ]


def _together(found: Results) -> list[Goal]:
    def slower() -> tuple[str, bool]:
        alone, slowest = found.alone(OURS), found.slowest(OURS, 8)
        share = max(1.0, 8 / found.cpus)
        ratio = slowest / (alone * share)
        text = f"{slowest:.3f} s / ({alone:.3f} s x {share:g} per core) = {ratio:.2f} times"
        return text, ratio <= 2

    def memory() -> tuple[str, bool]:
        own = found.own_memory(OURS, 8)
        snapshot = found.capture(found.replica_size(), OURS)["bytes"]
        text = f"{own / 2**20:.1f} MiB of {snapshot / 2**20:.0f} MiB = {own / snapshot:.1%}"
        return text, own / snapshot <= 0.03

    return [
        _goal(
            "8 replicas at once: the slowest, against one alone, per CPU core",
            "at most 2 times",
            slower,
        ),
        _goal("extra memory of an idle replica, of the snapshot", "at most 3 %", memory),
    ]


def _start(found: Results) -> Goal:
    def measure() -> tuple[str, bool]:
        pairs = (found.restores.get("starts") or {}).get(OURS) or {}
        ours, empty = middle(pairs.get("restored", [])), middle(pairs.get("empty", []))
        return _ratio(ours, empty), ours / empty <= 2

    return _goal(
        "StartContainer, 0.25 GiB restored, against an empty container's by runc through the "
        "same containerd",
        "at most 2 times",
        measure,
    )


def _embeddings(report: Mapping[str, Any]) -> Goal:
    def measure() -> tuple[str, bool]:
        demo = report.get("embeddings")
        if not demo:
            raise MissingError("the demo")
        slowest = max(one["first_answer_s"] for one in demo["restores"])
        return _ratio(demo["cold_first_answer_s"], slowest), demo["ratio"] >= 25

    return _goal(
        "embeddings example, first right answer against cold", "at least 25 times", measure
    )


def _frozen(found: Results) -> Goal:
    def measure() -> tuple[str, bool]:
        if not found.sizes():
            raise MissingError("sizes")
        size = max(found.sizes())
        capture = found.capture(size, OURS)
        wanted = (size << 20) / capture["disk_write"]
        ratio = capture["frozen"] / wanted
        return f"{size / 1024:g} GiB: {_ratio(capture['frozen'], wanted)}", ratio <= 1.3

    return _goal(
        "capture: time frozen, against memory / write speed of the disk",
        "at most 1.3 times",
        measure,
    )
