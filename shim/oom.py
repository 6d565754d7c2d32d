"""What the kernel's out-of-memory killer goes by, as the request has it.

CRIU gives each process the value that it had at the capture. That came from the quality of
service of another pod: a snapshot of a guaranteed pod would be killed last in a pod that asked
for nothing, and the other way round.
"""

from __future__ import annotations

from shim import cgroups

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_ROUNDS = 10
"""How often new processes are looked for: restored ones run, and may fork meanwhile."""


def apply(spec: Mapping[str, Any], groups: list[str], init: int, proc: str = "/proc") -> None:
    """Set the score adjustment of all processes of a restored container.

    A process with the value of the first one (``init``) gets the request's; so does one that is
    less likely to be killed than the request wants. One that has made itself more likely stays
    so. A value that may not be lowered (without CAP_SYS_RESOURCE) stays: it favours nobody.
    """
    wanted = (spec.get("process") or {}).get("oomScoreAdj")
    if type(wanted) is not int:
        return
    before = _read(f"{proc}/{init}")
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        found = cgroups.processes(groups) - seen
        for pid in found:
            value = _read(f"{proc}/{pid}")
            if value is not None and value != wanted and (value == before or value < wanted):
                _write(f"{proc}/{pid}", wanted)
        if not found:
            return
        seen |= found


def _read(folder: str) -> int | None:
    try:
        with open(f"{folder}/oom_score_adj", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _write(folder: str, value: int) -> None:
    try:
        with open(f"{folder}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(value))
    except OSError:
        return  # it has ended, or the value may not be lowered
