"""How much memory a restored container has of its own, and how much it shares with its snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cri import pagemap
from cri.prefetch import ranges

PROC = Path("/proc")

_ANONYMOUS = re.compile(r"^(?:Pss_Anon|SwapPss): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """Bytes of the memory of a container's processes."""

    shared: int
    """Of the snapshot's ``pages``, mapped and not written to: one copy for all replicas."""
    private: int
    """Anonymous, in memory or swapped: what the container wrote, or CRIU for it."""


def parse_private(text: str) -> int:
    """Bytes of anonymous memory in /proc/PID/smaps_rollup, each page divided by its users.

    Processes that share pages since a fork have each a part of them, so that a container's
    processes can be added up.
    """
    return sum(int(number) for number in _ANONYMOUS.findall(text)) * 1024


def usage(pids: Iterable[int], *, proc: Path = PROC) -> Usage | None:
    """Of the processes of one container together; None when none of them is there.

    Raises PermissionError when they are not ours to look at.
    """
    shared: list[ranges.Range] = []
    private, found = 0, False
    for pid in pids:
        # A process may end meanwhile; one that has not been reaped has no memory any more.
        with suppress(FileNotFoundError, ProcessLookupError):
            private += parse_private((proc / str(pid) / "smaps_rollup").read_text())
            found = True
            still = ((one.start, one.end) for one in pagemap.touched(pid, proc=proc) if one.shared)
            shared = ranges.merge([*shared, *ranges.join(still)])
    return Usage(shared=ranges.total(shared), private=private) if found else None
