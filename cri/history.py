"""Whether a container that was restored before is restored again when kubelet restarts it.

It is, as a restart should be as quick as a start. But a snapshot may hold a state from which the
program fails every time, and then only an ordinary start helps: after two failures of restored
runs with at most a minute between their ends, the container starts cold, for as long as its pod
lives. An end with status 0 is no failure. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from cri.records import Exit, Record
from shim.errors import Unfit

WINDOW = 60.0
"""Seconds between the ends of two failed runs that make them one trouble."""


def check(runs: Iterable[Record]) -> None:
    """Unfit when the earlier runs of a container say that it should start cold."""
    ends = sorted(
        record.exit.finished
        for record in runs
        if record.outcome == "restored" and record.exit is not None and record.exit.code != 0
    )
    for first, second in pairwise(ends):
        if second - first <= WINDOW:
            raise Unfit(
                "the container failed twice within a minute after it was restored "
                f"(at {_clock(first)} and {_clock(second)} UTC), so it starts the ordinary way"
            )


def unknown_ends(runs: Sequence[Record]) -> list[Record]:
    """Restored runs of which nobody has noted yet how they ended."""
    return [
        record
        for record in runs
        if record.outcome == "restored" and record.exit is None and record.container_id
    ]


def exit_of(finished_at: int, exit_code: int) -> Exit | None:
    """The end that a ContainerStatus tells (nanoseconds since the epoch); None while it runs."""
    if finished_at <= 0:
        return None
    return Exit(finished=finished_at / 1e9, code=exit_code)


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%H:%M:%S")
