"""What is compared: ways to get a server with so much memory running.

Each one first makes its snapshot (:meth:`Contender.capture`), then starts replicas from it. What
is prepared before the clock starts is :meth:`Contender.prepare`; the clock runs in
:meth:`Replica.start`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.bench.footprint import Footprint
from tests.bench.inside import Client

WORKLOAD = (Path(__file__).parent / "workload.py").read_text()
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Touch:
    """A request of the workload's: which pages it touches, and how."""

    share: float
    run: int = 64
    """Pages that lie side by side: 64 are 256 KiB, as of an array or a block of an allocator."""
    write: bool = False

    @property
    def path(self) -> str:
        return f"/touch/{self.share:g}/{self.run}/{'write' if self.write else 'read'}"


FIVE_PERCENT = Touch(0.05)
SCATTERED = Touch(0.05, run=1)
"""Single pages, each far from the next: as of a hash table."""
READ_ALL = Touch(1)
WRITE_ALL = Touch(1, write=True)


@dataclass(frozen=True, kw_only=True)
class Capture:
    """How a snapshot was made."""

    frozen: float
    """Seconds that the processes stood still."""
    seconds: float
    """All of it."""
    bytes: int
    """What its files have on disk."""
    phases: dict[str, float] = field(default_factory=dict)
    """Name → seconds, where the contender tells."""


class Replica(Protocol):
    """A container that is about to be started."""

    created: float
    """Seconds that CreateContainer took, for what starts through containerd; else 0."""
    asked: float
    """When the first call for it came (RunPodSandbox, or the runtime's), by time.monotonic()."""

    def start(self) -> float:
        """Start it; seconds until whoever asked for it is told that it runs."""

    def client(self) -> Client:
        """Who asks it."""

    def check(self) -> dict[str, float]:
        """MeasurementError unless it started as it should; the phases that are known."""

    def memory(self) -> Footprint:
        """What it takes."""

    def remove(self) -> None:
        """End it and leave nothing."""


class Contender(Protocol):
    """A way to start."""

    name: str
    title: str
    """As it is called in tables."""

    def capture(self, mebibytes: int) -> Capture | None:
        """Make the snapshot of a server with so much memory; None: it needs none."""

    def files(self) -> list[Path]:
        """The snapshot's files, by paths of this machine."""

    def expected(self, touch: Touch) -> str:
        """The answer of the server that was captured; empty when a new one may say anything."""

    def prepare(self) -> Replica:
        """All that comes before the start."""

    def forget(self) -> None:
        """Remove the snapshot."""


def command(mebibytes: int) -> list[str]:
    """The workload's command line."""
    return [PYTHON, "-B", "-c", WORKLOAD, str(mebibytes)]


def answers(client: Client) -> dict[Touch, str]:
    """What a server that is about to be captured answers, and what is restored must answer."""
    told = {touch: client.ask(touch.path) for touch in (FIVE_PERCENT, SCATTERED, READ_ALL)}
    # What is written is not what is told.
    return {**told, WRITE_ALL: told[READ_ALL]}
