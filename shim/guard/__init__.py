"""The guard: private file mappings that behave as the anonymous memory they stand for.

A mapped snapshot (:mod:`shim.memory`) restores large anonymous areas as private mappings of its
``pages`` file. Almost every system call treats both alike. The few that do not, such as
``madvise(MADV_DONTNEED)``, after which anonymous memory reads zero and such a mapping the file,
are stopped by a seccomp filter that stands in the restored images; a small process, the agent,
one per container, first makes the area truly anonymous and then lets the call go on.

    at capture       ``add`` puts the filter into the images; ``strip`` takes an old one out
    at restore       ``start`` before the runtime restores, ``Agent.ready`` after it
    in between       the filter stops a call until the agent answers: never wrong memory
    if the agent dies such calls fail with ENOSYS: an error, never wrong memory
    at the end       the agent ends by itself when the last process of the container does

Which calls, and what is done: docs/decisions/mapped-memory.md.
"""

from __future__ import annotations

from shim.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:  # the agent imports this package, and is to be small and ready soon
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

MINIMUM_KERNEL = (5, 9)
"""Linux: the first whose listener tells that no process is left (5.7 for TSYNC with a listener)."""


def supported() -> str:
    """Why this host cannot guard mapped memory; empty when it can. Reads /proc, starts nothing."""
    from shim.guard import host  # noqa: PLC0415 - not on the way of a container without a plan

    return host.reason()


def add(images: Path, ranges: Iterable[tuple[int, int]]) -> None:
    """Put the filter for the address ranges (start, end in bytes) into a folder of CRIU's images.

    Changes ``seccomp.img`` (made when it is missing) and every ``core-*.img`` of a live process.
    Without ranges nothing is changed. An older filter of ours must have been taken out before.
    Raises Broken for damaged images.
    """
    from shim.guard import images as edge  # noqa: PLC0415 - only a capture needs it

    edge.add(images, ranges)


def strip(images: Path) -> bool:
    """Take every filter of ours out of a folder of CRIU's images; whether there was one.

    For the dump of a restored container, which holds the filter of its own restore. Raises Broken.
    """
    from shim.guard import images as edge  # noqa: PLC0415 - only a capture needs it

    return edge.strip(images)


@record(kw_only=True, frozen=True)
class Agent:
    """The process that serves one container, as its starter sees it."""

    pid: int
    started: int
    """Its start in clock ticks after boot (field 22 of /proc/PID/stat): with it the number of a
    process is its own. Both belong in the journal; ``stop`` takes them."""
    order: int
    """Pipe to it; this and the next are descriptors of the starter, close-on-exec."""
    answer: int
    """Pipe from it."""

    def ready(self, deadline: float) -> None:
        """Tell it that the processes run, and wait until it serves every one of them.

        To be called when the runtime's restore has returned with success. ``deadline`` is on
        time.monotonic's clock. Afterwards no process of the container holds a descriptor of ours.
        Raises Unfit when it cannot serve or not in time: the restore must be undone then.
        """
        from shim.guard import launch  # noqa: PLC0415 - see supported

        launch.ready(self, deadline)


def start(container: str, cgroups: Sequence[str], *, run: str, log: str) -> Agent:
    """Start the agent of a container that will now be restored; returns at once.

    ``cgroups`` are the folders of its control groups (:attr:`shim.journal.Journal.cgroups`); they
    need not exist yet. The agent is a child of the caller in a session of its own; it holds no
    descriptor, control group or terminal of the caller's, and goes on when the caller ends after
    ``ready``. Should the caller end before, it ends as well. ``log`` is the absolute path of a file
    that gets one line when something goes wrong. Raises Unfit when it cannot be started.
    """
    from shim.guard import launch  # noqa: PLC0415 - see supported

    return launch.start(container, cgroups, run=run, log=log)


def stop(pid: int, started: int) -> None:
    """Kill an agent if it is still that process. Harmless when it has ended."""
    from shim.guard import launch  # noqa: PLC0415 - see supported

    launch.stop(pid, started)


def paused(run: str, container: str) -> AbstractContextManager[None]:
    """While this lasts the container's agent traces no process, so that CRIU can (a capture).

    Calls that need it wait. Nothing happens for a container without an agent.
    """
    from shim.guard import launch  # noqa: PLC0415 - see supported

    return launch.paused(run, container)
