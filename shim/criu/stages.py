"""Where the time of a restore goes inside CRIU, by the time stamps of its log.

Lines of CRIU 3.17 to 4.2 (criu/cr-restore.c, mount.c, files.c) tell what begins; a stage ends where
the next one begins, so together they are the whole. One that a version does not tell of counts to
the stage before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_STAMP = re.compile(r"\((\d+\.\d+)\)")

BEGINNINGS = {
    "images": "",
    "processes": "Forking task with",
    "mounts": "Move the root to",
    "files": "Opening fdinfo-s",
    "memory": "Restore via sigreturn",
    "resume": "Running post-restore scripts",
}
"""Stage → what the first line of its part of the log contains; in their order."""


def read(lines: Iterable[str]) -> tuple[dict[str, tuple[float, float]], float]:
    """Stage → seconds after CRIU's start at which it began, and its seconds; and when it ended.

    Several processes write to the log, so a stage begins where the first of them gets to it.
    """
    begins: dict[str, float] = {}
    waiting = list(BEGINNINGS.items())
    end = 0.0
    for line in lines:
        stamp = _STAMP.match(line)
        if stamp is None:
            continue
        end = max(end, float(stamp[1]))
        for place, (name, mark) in enumerate(waiting):
            if mark in line:
                begins[name] = float(stamp[1]) if begins else 0.0
                del waiting[: place + 1]
                break
            if not mark:
                break  # nothing begins before the first line
    ends = [*list(begins.values())[1:], end]
    return {
        name: (begin, max(0.0, until - begin))
        for (name, begin), until in zip(begins.items(), ends, strict=False)
    }, end
