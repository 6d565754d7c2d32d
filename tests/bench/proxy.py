"""What the proxy costs: each call directly and through it, in turns, against the same server.

``python -m tests.bench.proxy`` measures against a server of gRPC's C core, in a process of its own
as the proxy is in one; ``--containerd SOCKET`` against a real containerd (which answers Version
only, so without the large answers). Exit status 1 when a target of the project is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.cri.fake_cri import RUNTIME, FakeCri, channel

Ask = Callable[[], Awaitable[Any]]

MEDIAN, TAIL, RESIDENT = 1.0, 5.0, 40.0
"""Targets: milliseconds added at the 50th and 99th percentile, MB resident."""


@dataclass(frozen=True)
class Result:
    """Milliseconds, sorted, of the same calls both ways."""

    name: str
    direct: list[float]
    relayed: list[float]

    def row(self) -> str:
        cells = [
            f"{at(values, share):8.2f}"
            for share in (0.5, 0.99)
            for values in (self.direct, self.relayed)
        ]
        return f"{self.name:34}{''.join(cells)}{self.added(0.5):8.2f}{self.added(0.99):8.2f}"

    def summary(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "calls": len(self.direct),
            **{
                f"{way}_p{share * 100:.0f}_ms": round(value, 3)
                for share in (0.5, 0.99)
                for way, value in (
                    ("direct", at(self.direct, share)),
                    ("proxy", at(self.relayed, share)),
                    ("added", self.added(share)),
                )
            },
        }

    def added(self, share: float) -> float:
        return at(self.relayed, share) - at(self.direct, share)


def at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


async def in_turns(name: str, ways: tuple[Ask, Ask], *, calls: int, rate: float) -> Result:
    """Each way in turn, ``rate`` calls a second on each."""
    times: tuple[list[float], list[float]] = ([], [])
    for ask in ways * 20:  # connected and warm
        await ask()
    for number in range(calls):
        began = time.perf_counter()
        # Whoever comes second finds caches warm, so they take turns at that too.
        for way in (0, 1) if number % 2 else (1, 0):
            ask = ways[way]
            start = time.perf_counter()
            await ask()
            times[way].append((time.perf_counter() - start) * 1000)
        await asyncio.sleep(max(0.0, began + 1 / rate - time.perf_counter()))
    return Result(name, sorted(times[0]), sorted(times[1]))


async def at_once(name: str, ways: tuple[Ask, Ask], *, workers: int, calls: int) -> Result:
    """Several calls at a time without pause, one way after the other, in rounds."""

    async def work(ask: Ask, times: list[float]) -> None:
        for _ in range(calls):
            start = time.perf_counter()
            await ask()
            times.append((time.perf_counter() - start) * 1000)

    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(4):
        for ask, into in zip(ways, times, strict=True):
            await asyncio.gather(*(work(ask, into) for _ in range(workers)))
    return Result(name, sorted(times[0]), sorted(times[1]))


async def serve(path: Path) -> None:
    """The server: answers Version with nothing, and Large with a megabyte."""
    cri = FakeCri(path)

    async def small(_request: bytes, _context: object) -> bytes:
        return b"\n\x050.1.0"

    async def large(_request: bytes, _context: object) -> bytes:
        return bytes(1 << 20)

    cri.unary("Version", small)
    cri.unary("Large", large)
    await cri.start()
    await asyncio.Event().wait()


@contextmanager
def process(command: list[str], socket: Path) -> Iterator[int]:
    """A process from when its socket is there; its process id."""
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if socket.exists() or running.poll() is not None:
                break
            time.sleep(0.1)
        if not socket.exists():
            sys.exit(f"{' '.join(command)}: does not serve")
        time.sleep(0.3)
        yield running.pid
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait()


def resident(pid: int) -> float:
    """Resident memory of a process, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)


async def measure(direct: Path, relayed: Path, *, large: bool, part: int) -> list[Result]:
    """Each kind of call; one ``part``-th of the usual number of them."""
    options = {"grpc.max_receive_message_length": -1}
    async with channel(direct, **options) as one, channel(relayed, **options) as two:

        def ways(method: str) -> tuple[Ask, Ask]:
            first: Any = one.unary_unary(RUNTIME + method)
            second: Any = two.unary_unary(RUNTIME + method)
            return (lambda: first(b"")), (lambda: second(b""))

        results = [
            await in_turns("Version, 100 calls/s", ways("Version"), calls=1000 // part, rate=100),
            await at_once("Version, 16 at a time", ways("Version"), workers=16, calls=50 // part),
        ]
        if large:
            results += [
                await in_turns(
                    "1 MB answers, 20 calls/s", ways("Large"), calls=200 // part, rate=20
                ),
                await at_once(
                    "1 MB answers, 8 at a time", ways("Large"), workers=8, calls=10 // part
                ),
            ]
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="what the proxy costs")
    parser.add_argument("--containerd", type=Path, metavar="SOCKET", help="a real containerd")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
        return 0
    part = 4 if options.quick else 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.containerd is not None:
            return compare(options.containerd, folder, options.json, large=False, part=part)
        upstream = folder / "server.sock"
        with process(
            [sys.executable, "-m", "tests.bench.proxy", "--serve", str(upstream)], upstream
        ):
            return compare(upstream, folder, options.json, large=True, part=part)


def compare(upstream: Path, folder: Path, report: Path | None, *, large: bool, part: int) -> int:
    config = folder / "config.toml"
    config.write_text(
        f'version = 3\n[grpc]\naddress = "{upstream}"\n[plugins."dev.podthaw.v1"]\n'
        f'state = "{folder}/state"\nruntime = "/bin/true"\n'
    )
    os.environ["PODTHAW_RUN"] = f"{folder}/run"
    relayed = folder / "run/podthaw.sock"
    command = [sys.executable, "-m", "cri", "--config", str(config), "proxy"]
    with process(command, relayed) as pid:
        before = resident(pid)
        results = asyncio.run(measure(upstream, relayed, large=large, part=part))
        after = resident(pid)
    print(f"{'milliseconds':34}{'p50':>12}{'p99':>16}{'added':>13}")
    print(f"{'':34}{'direct':>8}{'proxy':>8}{'direct':>8}{'proxy':>8}{'p50':>8}{'p99':>8}")
    for result in results:
        print(result.row())
    print(f"resident: {before:.1f} MB at first, {after:.1f} MB after; {os.cpu_count()} CPUs")
    steady = results[0]
    jitter = statistics.stdev(steady.direct)
    print(f"the direct calls alone spread by {jitter:.2f} ms (standard deviation)")
    good = steady.added(0.5) <= MEDIAN and steady.added(0.99) <= TAIL and after <= RESIDENT
    print(
        f"targets at 100 calls/s: p50 +{MEDIAN:g} ms, p99 +{TAIL:g} ms, {RESIDENT:g} MB: "
        f"{'met' if good else 'MISSED'}"
    )
    if report is not None:
        found = [result.summary() for result in results]
        text = json.dumps({"met": good, "resident_mb": round(after, 1), "series": found}, indent=2)
        report.write_text(text + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
