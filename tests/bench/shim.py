"""What podthaw-runc adds to a start that is no restore: ``python -m tests.bench.shim``.

Two measurements on a test node, each in pairs that alternate, so that both sides meet the same
machine at the same moment:

    call    one call of runc (``--version``, ``state``), directly and through podthaw-runc
    start   StartContainer of an ordinary container, runtime handlers "" and "podthaw"

The target is the median of what one StartContainer takes longer: at most 40 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.pods import Container, Pod, Pods
from tests.e2e.rpc import Cri
from tests.node import images
from tests.node.node import PREFIX, Node

TARGET_MS = 40.0

# Runs on the node: the cost of a process is measured where no engine stands between.
_CALLS = """
import json, os, sys, time
pairs, rounds = json.loads(sys.argv[1]), int(sys.argv[2])
null = os.open(os.devnull, os.O_RDWR)
actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
def once(command):
    begun = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    os.waitpid(pid, 0)
    return (time.perf_counter() - begun) * 1000
result = {}
for name, pair in pairs.items():
    for command in pair:
        once(command)
    result[name] = [[once(command) for command in pair] for _ in range(rounds)]
print(json.dumps(result))
"""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Milliseconds of two alternating series."""

    name: str
    direct: list[float]
    shim: list[float]

    def summary(self) -> dict[str, Any]:
        """Medians, the median of the differences within the pairs, and the ratio."""
        added = [shim - direct for direct, shim in zip(self.direct, self.shim, strict=True)]
        direct, shim = statistics.median(self.direct), statistics.median(self.shim)
        return {
            "name": self.name,
            "pairs": len(added),
            "direct_ms": round(direct, 2),
            "shim_ms": round(shim, 2),
            "added_ms": round(statistics.median(added), 2),
            "ratio": round(shim / direct, 3),
        }


def calls(node: Node, rounds: int) -> list[Paired]:
    """Single calls of the runtime, measured on the node."""
    pairs = {
        "runc --version": ["--version"],
        "runc state (of no container)": ["--root", "/run/bench", "state", "none"],
    }
    shim = f"{PREFIX}/bin/podthaw-runc"
    wanted = {name: [["runc", *words], [shim, *words]] for name, words in pairs.items()}
    answer = node.exec(["python3", "-c", _CALLS, json.dumps(wanted), str(rounds)], timeout=600)
    return [
        Paired(name=name, direct=[one[0] for one in series], shim=[one[1] for one in series])
        for name, series in json.loads(answer.stdout).items()
    ]


def starts(pods: Pods, rounds: int) -> Paired:
    """StartContainer of a container that sleeps, in pods of both handlers."""
    sleeper = Container(image=images.BUSYBOX, command=("/bin/sleep",), args=("600",))

    def once(handler: str) -> float:
        running = pods.start(Pod(name="bench", containers=(sleeper,), handler=handler), ready=False)
        seconds = running.start_seconds[sleeper.name]
        pods.remove(running)
        return seconds * 1000

    direct, shim = alternate(lambda: once(""), lambda: once("podthaw"), rounds)
    return Paired(name="StartContainer", direct=direct, shim=shim)


def alternate(
    first: Callable[[], float], second: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    """Call both in turn, and in the other order every second time; the first pair is no count."""
    first(), second()
    left, right = [], []
    for number in range(rounds):
        if number % 2:
            right.append(second())
            left.append(first())
        else:
            left.append(first())
            right.append(second())
    return left, right


def main() -> int:
    """Measure, print a line for each series, and say whether the target is met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.shim", description=__doc__)
    parser.add_argument("--calls", type=int, default=100, help="pairs of single calls")
    parser.add_argument("--starts", type=int, default=20, help="pairs of container starts")
    parser.add_argument("--flavour", default="sid")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    begun = time.monotonic()
    with Node(options.flavour) as node:
        node.install_podthaw()
        node.start_containerd()
        found = calls(node, options.calls)
        cri = Cri(node.endpoint())
        pods = Pods(node, cri)
        found.append(starts(pods, options.starts))
        cri.close()
    for one in found:
        print(json.dumps(one.summary()))
    added = found[-1].summary()["added_ms"]
    verdict = "met" if added <= TARGET_MS else "missed"
    print(f"target: at most {TARGET_MS:g} ms added to a start; {added:g} ms: {verdict}")
    if options.json is not None:
        series = [one.summary() for one in found]
        report = {"met": added <= TARGET_MS, "series": series}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"measured in {time.monotonic() - begun:.0f} s", flush=True)
    return 0 if added <= TARGET_MS else 1


if __name__ == "__main__":
    raise SystemExit(main())
