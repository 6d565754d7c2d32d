"""The processors that threads have bound themselves to, which CRIU 4.2 does not save.

Kept in a small file beside CRIU's images and given back after the restore: only where the new
container may use exactly the processors that the captured one might, because a number means
something else in another set, and threads crammed onto what two sets share would be worse off than
free ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from shim import cgroups, procfs
from shim.snapshot import AFFINITY

_EFFECTIVE = ("cpuset.cpus.effective", "cpuset.effective_cpus")
"""In a control group's folder, of cgroup v2 and v1."""


def save(pids: Iterable[int], folders: Iterable[str], images: Path, proc: str = "/proc") -> None:
    """Write the file if a thread of these processes, which stand still, is bound.

    ``folders`` are those of the container's control groups. Raises OSError when the file cannot be
    written.
    """
    allowed = _allowed(folders)
    if not allowed:
        return
    bound = {}
    for pid in pids:
        for thread, inner in _threads(pid, proc):
            mask = _affinity(thread)
            if mask and mask != allowed:
                bound[inner] = sorted(mask)
    if bound:
        (images / AFFINITY).write_text(json.dumps({"allowed": sorted(allowed), "threads": bound}))


def apply(images: Path, folders: list[str], proc: str = "/proc") -> None:
    """Bind the threads of a restored container again; what cannot be bound stays free."""
    try:
        saved = json.loads((images / AFFINITY).read_bytes())
        allowed = set(saved["allowed"])
        bound = {int(inner): set(mask) for inner, mask in saved["threads"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return
    if allowed != _allowed(folders):
        return
    for pid in cgroups.processes(folders):
        for thread, inner in _threads(pid, proc):
            # One that is bound already did it by itself since then: it runs.
            if inner in bound and _affinity(thread) == allowed:
                _bind(thread, bound[inner])


def parse(text: str) -> set[int]:
    """The numbers of a list such as ``0-3,8`` (cpuset(7)). Raises ValueError."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        found.update(range(int(first), int(last if dash else first) + 1))
    return found


def _allowed(folders: Iterable[str]) -> set[int]:
    """The processors that a container may use; empty when no group tells."""
    for folder in folders:
        for name in _EFFECTIVE:
            try:
                return parse(Path(folder, name).read_text())
            except (OSError, ValueError):
                continue
    return set()


def _threads(pid: int, proc: str) -> Iterator[tuple[int, int]]:
    """Each thread of a process: its id as seen from here, and inside the container."""
    try:
        names = os.listdir(f"{proc}/{pid}/task")
    except OSError:
        return
    for name in names:
        try:
            text = Path(f"{proc}/{pid}/task/{name}/status").read_text(errors="replace")
        except OSError:
            continue  # it has ended
        yield int(name), procfs.parse_status(text).inner


def _affinity(thread: int) -> set[int]:
    try:
        return os.sched_getaffinity(thread)
    except OSError:
        return set()  # it has ended


def _bind(thread: int, processors: set[int]) -> None:
    try:
        os.sched_setaffinity(thread, processors)
    except (OSError, ValueError, TypeError, OverflowError):
        return  # it has ended, or the file is not what we wrote
