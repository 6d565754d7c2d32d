"""How much memory the control groups of a container leave to it."""

from __future__ import annotations

from pathlib import Path

_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
"""Version → limit, use, and the key in memory.stat of what the kernel gives back when asked."""

_NO_LIMIT = 1 << 60
"""Bytes; cgroup v1 says "no limit" with a number near 2⁶³."""


def left(group: Path, version: int) -> int | None:
    """Bytes that a group may still take, by its own limit and those above it; None for any.

    ``group`` is the folder of the memory controller (``version`` 1) or of the group (2).
    """
    smallest: int | None = None
    for folder in (group, *group.parents):
        here = _left(folder, version)
        if here is not None and (smallest is None or here < smallest):
            smallest = here
    return smallest


def _left(folder: Path, version: int) -> int | None:
    limit_file, use_file, cache_key = _FILES[version]
    try:
        limit = int((folder / limit_file).read_text())
        used = int((folder / use_file).read_text())
        statistics = (folder / "memory.stat").read_text()
    except (OSError, ValueError):  # no such controller, or the word `max`
        return None
    if limit >= _NO_LIMIT:
        return None
    cache = next(
        (int(line.split()[1]) for line in statistics.splitlines() if line.startswith(cache_key)), 0
    )
    return max(0, limit - max(0, used - cache))
