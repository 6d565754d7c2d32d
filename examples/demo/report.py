"""What the demo shows: a table, a timeline in plain text, and build/demo.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.demo.starts import Start

WIDTH = 60
"""Characters of the longest bar."""


@dataclass(frozen=True)
class Restored:
    """A pod that started from the snapshot, and what was found there."""

    start: Start
    outcome: str
    """``restored``, ``cold`` or ``failed``, by ``podthaw status``."""
    equal: bool
    """Its embeddings are those of the cold pod, bit for bit."""
    phases: Mapping[str, float]
    """Name of a phase of Podthaw's own work → seconds, by ``podthaw status``."""
    findings: tuple[str, ...] = ()
    """What is not as it must be; empty when all is well."""


@dataclass(frozen=True)
class Outcome:
    """The whole run."""

    cold: Start
    one_by_one: Sequence[Restored]
    """Each alone on the node's processors: these are the figures."""
    together: Sequence[Restored]
    """All at once."""
    capture: Mapping[str, Any]
    machine: Mapping[str, Any]

    @property
    def ratio(self) -> float:
        """How many times sooner the first answer comes, by the slowest of the single restores."""
        slowest = max(one.start.first_answer_s for one in self.one_by_one)
        return self.cold.first_answer_s / slowest

    @property
    def restored(self) -> list[Restored]:
        """All pods that started from the snapshot."""
        return [*self.one_by_one, *self.together]


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The content of build/demo.json; all times in seconds."""
    return {
        "cold_start_s": _round(outcome.cold.start_s),
        "cold_first_answer_s": _round(outcome.cold.first_answer_s),
        "cold_from_manifest_s": _round(outcome.cold.from_manifest_s),
        "restores": [_restore(one) for one in outcome.one_by_one],
        "restores_together": [_restore(one) for one in outcome.together],
        "ratio": round(outcome.ratio, 2),
        "capture": dict(outcome.capture),
        "machine": dict(outcome.machine),
    }


def table(outcome: Outcome) -> str:
    """One line a pod."""
    head = ("POD", "START", "RUNNING", "FIRST ANSWER", "FROM MANIFEST", "EQUAL", "ADDRESS")
    rows = [head, _row(outcome.cold, "cold", "-")]
    for suffix, group in (("", outcome.one_by_one), (", 3 at once", outcome.together)):
        rows += [
            _row(one.start, one.outcome + suffix, "yes" if one.equal else "NO") for one in group
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def timeline(outcome: Outcome) -> str:
    """Bars on one scale, from kubelet's request on."""
    starts = [outcome.cold, *(one.start for one in outcome.restored)]
    name_width = max(len(start.pod) for start in starts)
    scale = WIDTH / max(start.first_answer_s for start in starts)
    lines = ["from kubelet's request:  ░ container is made and started   █ until the first answer"]
    for start in starts:
        # A restored process may answer before containerd has noted that its container runs.
        whole = max(1, round(start.first_answer_s * scale))
        making = min(whole, max(0, round(start.start_s * scale)))
        bar = "░" * making + "█" * (whole - making)
        lines.append(f"{start.pod:<{name_width}}  {bar} {start.first_answer_s:.2f} s")
    return "\n".join(lines)


def _row(start: Start, how: str, equal: str) -> tuple[str, ...]:
    return (
        start.pod,
        how,
        f"{start.start_s:.2f} s",
        f"{start.first_answer_s:.2f} s",
        f"{start.from_manifest_s:.2f} s",
        equal,
        start.address,
    )


def _restore(one: Restored) -> dict[str, Any]:
    return {
        "pod": one.start.pod,
        "outcome": one.outcome,
        "start_s": _round(one.start.start_s),
        "first_answer_s": _round(one.start.first_answer_s),
        "from_manifest_s": _round(one.start.from_manifest_s),
        "equal": one.equal,
        "phases": {name: _round(seconds) for name, seconds in one.phases.items()},
        "findings": list(one.findings),
    }


def _round(seconds: float) -> float:
    return round(seconds, 3)
