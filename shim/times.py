"""When each part of a restore began and how long it took, for ``podthaw trace``.

All times are of CLOCK_MONOTONIC, which every process of the machine reads alike.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from types import TracebackType


class Times:
    """The parts of one ``create``; made when it begins its work."""

    def __init__(self) -> None:
        now = time.monotonic()
        self.began = now - time.process_time()
        """Seconds: when this process began, but for time in which it did not run."""
        self.loaded = now
        self.phases: dict[str, float] = {}
        """What is told of a restore: phase → seconds."""
        self.stages: dict[str, list[float]] = {"load": [0.0, round(now - self.began, 6)]}
        """Part → seconds after ``began`` at which it began, and its seconds; parts of parts too."""

    def phase(self, name: str) -> _Part:
        """A context that is a phase; one that fails is noted as well."""
        return _Part(self, name, is_phase=True)

    def part(self, name: str) -> _Part:
        """A context that is part of a phase."""
        return _Part(self, name, is_phase=False)

    def note(self, name: str, begun: float, *, is_phase: bool = True) -> None:
        """Something ends now that began at ``begun``."""
        seconds = round(time.monotonic() - begun, 6)
        self.stages[name] = [round(begun - self.began, 6), seconds]
        if is_phase:
            self.phases[name] = seconds


class _Part:
    def __init__(self, times: Times, name: str, *, is_phase: bool) -> None:
        self._times, self._name, self._is_phase = times, name, is_phase

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        self._times.note(self._name, self._begun, is_phase=self._is_phase)
