"""Trees of processes: pools, pipelines, and first processes that only look after others."""

from __future__ import annotations

from typing import Any

from tests.programs.case import Case, equal, file
from tests.programs.live import Live


def _pipeline(live: Live) -> Any:
    before = int(live.sh("wc -l < /tmp/dates"))
    live.wait("next line", lambda: int(live.sh("wc -l < /tmp/dates")) > before, timeout=5)
    return live.sh("head -n 1 /tmp/dates")


def _pipeline_after(live: Live) -> None:
    live.wait("lines in the log", lambda: len(live.running.log().splitlines()) > 1, timeout=5)


def _init(live: Live) -> Any:
    before = int(live.sh("wc -l < /tmp/a"))
    live.wait("child's line", lambda: int(live.sh("wc -l < /tmp/a")) > before, timeout=5)
    # A process whose parent ends is the first one's, which reaps it.
    live.sh("(sleep 0.1 &) ; sleep 0.3")
    zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
    equal("zombies", live.sh(zombies), "0")
    # Process, parent, group and session.
    ids = "grep -qs sleepe[r] $p/cmdline && cut -d' ' -f 1,4,5,6 $p/stat"
    return live.sh(f"cat /proc/1/comm; for p in /proc/[0-9]*; do {ids}; done; :")


_TREE = (
    "sh -c 'while :; do sleep 0.2; echo a >> /tmp/a; done' sleeper & sleep 1000 & "
    "trap 'echo ending; exit 3' TERM; while :; do wait; done"
)

CASES = (
    *(
        Case(name=f"pool-{method}", command=["python3", file("pool.py"), method], end=3)
        for method in ("fork", "spawn", "forkserver")
    ),
    Case(
        name="pipeline",
        # The first process of a PID namespace does not die of SIGTERM by itself.
        command=[
            "sh",
            "-c",
            "trap 'exit 3' TERM; while sleep 1; do date; done | tee /tmp/dates & wait",
        ],
        ask=_pipeline,
        after=_pipeline_after,
        end=3,
    ),
    Case(name="tini", command=["tini", "-g", "--", "sh", "-c", _TREE], ask=_init, end=None),
    Case(name="dumb-init", command=["dumb-init", "--", "sh", "-c", _TREE], ask=_init, end=None),
)
