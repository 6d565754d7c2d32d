"""Restores side by side: ``python -m tests.bench.restores``.

For each size of memory every contender makes its snapshot, then they start replicas in turn, with
the snapshot in the page cache and without it. At one size 1, 4 and 8 replicas start at once, at
another starts are compared with those of an empty container. What fails is told, and the rest
goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.bench import pagecache
from tests.bench.contender import (
    FIVE_PERCENT,
    READ_ALL,
    SCATTERED,
    WRITE_ALL,
    Contender,
    Replica,
    Touch,
)
from tests.bench.inside import Inside, MeasurementError
from tests.bench.plain import Plain
from tests.bench.podthaw import PODTHAW, Podthaw
from tests.bench.scope import FULL, QUICK, Scope
from tests.bench.shim import alternate
from tests.e2e.pods import WORKLOADS, Container, Pod, Pods
from tests.e2e.rpc import Cri
from tests.node import images
from tests.node.container import STATE
from tests.node.node import PROXY_SOCKET, Node

YARDSTICK = 1 << 30
"""Bytes at most that are written to learn how fast the disk is."""
SPARE = 2 << 30
"""Bytes of disk that a capture must leave free, besides twice the memory."""
COLD_SHARE = 0.02
"""So much of a snapshot may be left in the page cache when it counts as cold."""
WARM_SHARE = 0.98
LEARNING = 1.0
"""Seconds that a replica lives for Podthaw to see which pages it has touched first."""


@dataclass
class Bench:
    """The run: what is compared where, and what was found."""

    inside: Inside
    contenders: list[Contender]
    scope: Scope
    found: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    report: Path | None = None
    """Where the results go, after each size: a run that is cut off has measured something."""

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A measurement that may fail: then it is told, and the rest goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - one measurement must not stop the others
            text = f"{what}: {type(error).__name__}: {error}"
            self.failures.append(text)
            print(f"FAILED: {text}", file=sys.stderr, flush=True)
            if not isinstance(error, MeasurementError):
                traceback.print_exception(error)

    def say(self, text: str) -> None:
        print(f"   {time.monotonic() - self.begun:5.0f} s  {text}", flush=True)

    def measure(self) -> None:
        """Everything, size by size."""
        for size in self.scope.sizes:
            with self.attempt(f"{size} MiB"):
                self._size(size)
            self.save()

    def save(self) -> None:
        """Write what was found so far."""
        if self.report is not None:
            text = json.dumps({**self.found, "failures": self.failures}, indent=1)
            self.report.write_text(text + "\n")

    def _size(self, size: int) -> None:
        ready: list[Contender] = []
        captures: dict[str, Any] = {}
        one: dict[str, Any] = {"mib": size, "captures": captures, "warm": [], "cold": []}
        self.found.setdefault("sizes", []).append(one)
        try:
            for contender in self.contenders:
                with self.attempt(f"capture, {contender.name}, {size} MiB"):
                    self._capture(contender, size, captures)
                    ready.append(contender)
            self._warm(ready, size, one["warm"])
            if size in self.scope.cold_sizes:
                self._cold([who for who in ready if who.files()], size, one["cold"])
            if size == self.scope.replica_size:
                self.found["replicas"] = {"mib": size, "runs": self._replicas(ready, size)}
            if size == self.scope.start_size:
                for contender in ready:
                    if contender.name in self.scope.start_contenders:
                        with self.attempt(f"StartContainer, {contender.name}"):
                            pairs = self._starts(contender)
                            self.found.setdefault("starts", {})[contender.name] = pairs
        finally:
            for contender in self.contenders:
                with self.attempt(f"removal of the snapshot, {contender.name}"):
                    contender.forget()

    def _capture(self, contender: Contender, size: int, into: dict[str, Any]) -> None:
        volume = self.inside.path(STATE)
        free = shutil.disk_usage(volume).free
        if free < 2 * (size << 20) + SPARE:
            raise MeasurementError(f"only {free / 2**30:.0f} GiB of disk are free")
        amount = min(size << 20, YARDSTICK)
        written = pagecache.write(volume / "bench.dd", amount)
        capture = contender.capture(size)
        if capture is None:
            return
        into[contender.name] = {**asdict(capture), "disk_write": amount / written}
        self.say(
            f"{size} MiB, {contender.name}: captured in {capture.seconds:.2f} s, "
            f"frozen {capture.frozen:.2f} s; the disk writes {amount / written / 1e6:.0f} MB/s"
        )

    def _warm(self, ready: list[Contender], size: int, runs: list[Any]) -> None:
        for number in range(self.scope.rounds(size)):
            last = WRITE_ALL if number % 2 else READ_ALL
            # In turns, and each is the first one once: they then meet the same machine.
            for contender in turned(ready, number):
                with self.attempt(f"warm, {contender.name}, {size} MiB"):
                    share = pagecache.warm(contender.files()) if contender.files() else 1.0
                    if share < WARM_SHARE:
                        raise MeasurementError(f"only {share:.0%} is in the page cache")
                    runs.append(self._once(contender, [FIVE_PERCENT, last]))

    def _cold(self, ready: list[Contender], size: int, runs: list[Any]) -> None:
        for number in range(self.scope.cold_rounds):
            for contender in turned(ready, number):
                cases = [(FIVE_PERCENT, True)]
                if contender.name == "mapped" and number == 0:
                    cases = [(FIVE_PERCENT, False), (FIVE_PERCENT, True), (SCATTERED, True)]
                for first, known in cases:
                    with self.attempt(f"cold, {contender.name}, {size} MiB"):
                        self._learn(contender, first if known else None)
                        self._drop(contender)
                        seconds = sum(pagecache.read(path) for path in contender.files())
                        left = self._drop(contender)
                        run = self._once(contender, [first, READ_ALL])
                        found = {"read_file": seconds, "left_in_cache": left, "known": known}
                        runs.append({**run, **found})

    def _learn(self, contender: Contender, touch: Touch | None) -> None:
        """Let the node know which pages an earlier replica touched first, or none."""
        if not isinstance(contender, Podthaw) or contender.memory != "mapped":
            return
        contender.unlearn()
        if touch is not None:
            # Roughly at first, where large folios hide what is touched; then they are not used, and
            # it learns exactly (docs/decisions/reading-ahead.md).
            for _ in range(2):
                self._drop(contender)
                self._once(contender, [touch], stay=LEARNING)

    def _drop(self, contender: Contender) -> float:
        share = pagecache.drop(contender.files())
        if share > COLD_SHARE:
            raise MeasurementError(f"{share:.0%} of the snapshot stays in the page cache")
        return share

    def _once(
        self, contender: Contender, touches: list[Touch], *, stay: float = 0
    ) -> dict[str, Any]:
        """One start: until it runs, until its first answer, until its last; then it may stay."""
        replica = contender.prepare()
        try:
            client = replica.client()
            begun = time.monotonic()
            running = replica.start()
            answered = []
            for touch in touches:
                self._compare(contender, touch, client.ask(touch.path))
                answered.append(time.monotonic() - begun)
            phases = replica.check()
            time.sleep(stay)
        finally:
            replica.remove()
        first, last = touches[0], touches[-1]
        if not stay:
            self.say(
                f"{contender.name}: running {running:.3f} s, first answer {answered[0]:.3f} s, "
                f"all {'written' if last.write else 'read'} {answered[-1]:.3f} s"
            )
        return {
            "contender": contender.name,
            "created": replica.created,
            "before": begun - replica.asked if replica.asked < begun else 0.0,
            "running": running,
            "first_answer": answered[0],
            "touched": answered[-1],
            "first_touch": first.path,
            "last_touch": "write" if last.write else "read",
            "phases": phases,
        }

    @staticmethod
    def _compare(contender: Contender, touch: Touch, answer: str) -> None:
        wanted = contender.expected(touch)
        if wanted not in ("", answer):
            raise MeasurementError(f"{touch.path} gave {answer}, before the capture {wanted}")

    def _replicas(self, ready: list[Contender], size: int) -> list[Any]:
        runs = []
        for contender in ready:
            if contender.name not in self.scope.replica_contenders:
                continue
            for count in self.scope.replicas:
                for _ in range(self.scope.replica_rounds):
                    with self.attempt(f"{count} replicas, {contender.name}, {size} MiB"):
                        if contender.files():
                            pagecache.warm(contender.files())
                        runs.append(self._together(contender, count))
        return runs

    def _together(self, contender: Contender, count: int) -> dict[str, Any]:
        """So many at once; their memory is looked at before anything of it was touched."""
        replicas: list[Replica] = []
        try:
            for _ in range(count):
                replicas.append(contender.prepare())  # noqa: PERF401 - removed if one fails
            clients = [replica.client() for replica in replicas]
            barrier = threading.Barrier(count)

            def go(number: int) -> tuple[float, float]:
                barrier.wait(60)
                begun = time.perf_counter()
                running = replicas[number].start()
                clients[number].ask("/")
                return running, time.perf_counter() - begun

            with ThreadPoolExecutor(count) as pool:
                times = list(pool.map(go, range(count)))
            for replica in replicas:
                replica.check()
            extra = [asdict(replica.memory()) for replica in replicas]
        finally:
            for replica in replicas:
                replica.remove()
        self.say(
            f"{contender.name}, {count} at once: running {max(one for one, _ in times):.3f} s, "
            f"extra memory {extra[0]['anonymous'] / 2**20:.1f} MiB"
        )
        return {
            "contender": contender.name,
            "count": count,
            "running": [one for one, _ in times],
            "first_answer": [two for _, two in times],
            "memory": extra,
        }

    def _starts(self, contender: Contender) -> dict[str, Any]:
        """StartContainer of a restore against that of an empty container, which runc starts."""
        empty = Container(image=images.BUSYBOX, command=("/bin/sleep",), args=("600",))

        def ordinary() -> float:
            cri = Cri(self.inside.node.endpoint())
            pods = Pods(self.inside.node, cri)
            running = pods.start(Pod(name="bench-empty", containers=(empty,)), ready=False)
            pods.remove(running)
            cri.close()
            return running.start_seconds[empty.name]

        def restored() -> float:
            pagecache.warm(contender.files())
            replica = contender.prepare()
            try:
                seconds = replica.start()
                replica.check()
            finally:
                replica.remove()
            return seconds

        one, other = alternate(ordinary, restored, self.scope.start_pairs)
        return {"empty": one, "restored": other}


def turned(contenders: Sequence[Contender], number: int) -> list[Contender]:
    """The same ones in an order that begins with the next one at each number."""
    shift = number % len(contenders) if contenders else 0
    return [*contenders[shift:], *contenders[:shift]]


def run(scope: Scope, only: Sequence[str], report: Path | None) -> list[str]:
    """Measure on a node of its own and write the report; what failed."""
    with Node("sid", name="bench") as node:
        node.install_podthaw()
        node.start_containerd()
        node.exec(["mkdir", "-p", WORKLOADS])
        node.start_proxy()
        inside = Inside(node)
        cri = Cri(node.endpoint(PROXY_SOCKET))
        pods = Pods(node, cri)
        bench = Bench(inside, [], scope, report=report)
        makers: dict[str, Callable[[], Contender]] = {
            "runc": lambda: Plain(inside, "runc"),
            "crun": lambda: Plain(inside, "crun"),
            "eager": lambda: Podthaw(inside, pods, "eager"),
            "mapped": lambda: Podthaw(inside, pods, "mapped"),
            "cold": lambda: Podthaw(inside, pods, None),
        }
        for name, make in makers.items():
            if not only or name in only:
                with bench.attempt(name):
                    bench.contenders.append(make())
        bench.found["versions"] = versions(inside)
        try:
            bench.measure()
        finally:
            cri.close()
    bench.save()
    return bench.failures


def versions(inside: Inside) -> dict[str, str]:
    """Of the programs that take part."""
    found = {}
    for name, command in {
        "containerd": ["containerd", "--version"],
        "runc": ["runc", "--version"],
        "crun": ["crun", "--version"],
        "criu": ["criu", "--version"],
        "podthaw": [PODTHAW, "--version"],
    }.items():
        first = inside.run(command, check=False).output.splitlines()[0].split()
        found[name] = next((word for word in reversed(first) if word.lstrip("v")[:1].isdigit()), "")
    return found


def main() -> int:
    """Measure and write the results; exit status 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restores", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes, few repetitions")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these contenders")
    parser.add_argument(
        "--sizes", nargs="*", type=int, metavar="MIB", help="these, the largest one also cold"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    scope = QUICK if options.quick else FULL
    if options.sizes:
        sizes = options.sizes
        scope = replace(scope, sizes=sizes, cold_sizes=[max(sizes)])
    begun = time.monotonic()
    failures = run(scope, options.only, options.json)
    print(f"measured in {time.monotonic() - begun:.0f} s, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
