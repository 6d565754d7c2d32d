"""What of a snapshot is read ahead, and in which order. Pure functions.

1. ``images``: the small files; a restore reads all of them before the processes run.
2. ``hot``: the pages of ``pages`` that earlier replicas touched first.
3. ``large``: the large files that a restore reads as a whole: memory that CRIU copies, the
   writable layer.
4. ``rest``: what else ``pages`` stores; this gives way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cri.prefetch import Mode, ranges
from cri.prefetch.ranges import Range
from cri.prefetch.reading import Step
from shim.memory import MEMORY, PAGES, SUMS
from shim.snapshot import Artifact

_SMALL = 16 << 20  # bytes
_HOT = 2  # at most one n-th of what is stored counts as hot
_UNREAD = frozenset({PAGES, SUMS, MEMORY})  # what a restore itself does not read as a whole


def steps(
    folder: Path,
    artifacts: Sequence[Artifact],
    *,
    stored: Sequence[Range] = (),
    hot: Sequence[Range] = (),
    mode: Mode = "all",
) -> list[Step]:
    """The steps for a snapshot in ``folder``, without empty ones.

    ``stored`` are the ranges of ``pages`` that hold data, sorted; ``hot`` are ordered, and may
    reach into holes, which are never read.
    """
    if mode == "none":
        return []
    whole = [one for one in artifacts if one.path not in _UNREAD and one.size]
    touched = ranges.intersect(hot, stored)
    # A program that touches most of its memory soon shall not hold up others for it.
    warm = ranges.first(touched, ranges.total(stored) // _HOT)
    found = [_all("images", folder, one) for one in whole if one.size <= _SMALL]
    found.append(Step(name="hot", path=folder / PAGES, ranges=warm, fine=True))
    found += [_all("large", folder, one) for one in whole if one.size > _SMALL]
    if mode == "all":
        untouched = ranges.subtract(stored, ranges.merge(touched))
        rest = ranges.subtract([*touched, *untouched], ranges.merge(warm))
        found.append(Step(name="rest", path=folder / PAGES, ranges=rest, waits=True))
    return [step for step in found if step.ranges]


def _all(name: str, folder: Path, artifact: Artifact) -> Step:
    return Step(name=name, path=folder / artifact.path, ranges=[(0, artifact.size)])
