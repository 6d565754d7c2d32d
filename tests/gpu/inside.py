"""Inside the node: start the daemons, run what the settings ask for, write the results.

Run by :mod:`tests.gpu.bare`, with the node's own Python.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu import cases, figures, image, runs
from tests.gpu.cases import Case
from tests.gpu.cri import Cri
from tests.gpu.daemons import LOGS, PROXY, Daemons, run, smi, tail
from tests.gpu.pods import Program, Running
from tests.gpu.suspending import Suspender, members

OUTPUT = Path("/output")
SMI = ("/bin/sh", "-c", "PATH=$PATH:/usr/local/nvidia/bin exec nvidia-smi -L")
PARAMS = ("/bin/sh", "-c", "grep ModifyDeviceFiles /proc/driver/nvidia/params")


def main() -> int:
    """Run everything; exit status 1 when something was not right."""
    settings: dict[str, Any] = json.loads(os.environ["GPU_SETTINGS"])
    run(["ldconfig"])  # nvidia-smi and the driver's clients look for its libraries
    results: dict[str, Any] = {"facts": facts(), "settings": settings, "runs": [], "figures": []}
    began = time.monotonic()
    deadline = began + settings["seconds"]
    wrong: list[str] = []
    try:
        with Daemons() as daemons:
            image.make(Path("/var/tmp"))
            cri = Cri(PROXY)
            bench = _bench(settings, cri, daemons)
            for case in _chosen(settings):
                work = partial(runs.run, bench, case)
                _attempt(results, wrong, case.name, deadline, work, key="runs")
            for size in settings["sizes"]:
                work = partial(figures.measure, bench, size, gpu=settings["gpu"])
                _attempt(results, wrong, f"figures-{size}", deadline, work, key="figures")
            cri.close()
    except Exception:  # noqa: BLE001 - whatever it is, what was measured is written
        wrong.append(traceback.format_exc())
    results["seconds"] = round(time.monotonic() - began, 1)
    results["wrong"] = wrong
    _write(results)
    for text in wrong:
        print(text)
    print(f"== {len(results['runs'])} cases right, {len(wrong)} wrong, {results['seconds']} s")
    return 1 if wrong else 0


def facts() -> dict[str, str]:
    """What the figures depend on."""
    query = "--query-gpu=name,driver_version,memory.total,uuid,persistence_mode"
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "kernel": os.uname().release,
        "fresh_memory": f"{_memory_speed():.1f} GB/s",
        "disk": f"{_disk_speed():.1f} GB/s written",
        "cpus": str(os.cpu_count()),
        "gpu": smi(query, "--format=csv,noheader"),
        "criu": run(["criu", "--version"]).split("\n")[0],
        "containerd": run(["containerd", "--version"]).strip(),
        "runc": run(["runc", "--version"]).split("\n")[0],
    }


def _memory_speed() -> float:
    """GB/s at which the kernel gives memory; a virtual machine may first have to ask its host."""
    size = 4 << 30
    begun = time.monotonic()
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        return size / 1e9 / (time.monotonic() - begun)


def _disk_speed() -> float:
    """GB/s at which the disk of the store takes a file."""
    size, block = 2 << 30, b"podthaw\n" * (1 << 21)
    path = Path("/var/tmp/speed")
    begun = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for _ in range(size // len(block)):
            file.write(block)
        os.fsync(file.fileno())
    path.unlink()
    return size / 1e9 / (time.monotonic() - begun)


def _chosen(settings: dict[str, Any]) -> list[Case]:
    available = cases.CASES if settings["gpu"] else cases.PLAIN
    names = settings["cases"]
    return [case for case in available if names == ["all"] or case.name in names]


def _attempt(
    results: dict[str, Any],
    wrong: list[str],
    name: str,
    deadline: float,
    work: Callable[[], dict[str, Any]],
    *,
    key: str,
) -> None:
    begun = time.monotonic()
    if begun > deadline:
        wrong.append(f"{name}: not run, the time is up")
        return
    print(f"== {name} …", flush=True)
    try:
        results[key].append(work())
    except Exception as error:  # noqa: BLE001 - one case's failure is no reason to skip the others
        wrong.append(f"{name}: {type(error).__name__}: {error}")
        (OUTPUT / f"{name}.txt").write_text(
            traceback.format_exc() + "\n".join(_logs()), errors="replace"
        )
        print(f"== {name}: WRONG: {error}", flush=True)
    else:
        print(f"== {name}: {json.dumps(results[key][-1])}", flush=True)
    print(f"== {name}: {time.monotonic() - begun:.1f} s", flush=True)
    _write(results)


def _logs() -> list[str]:
    logs = [*LOGS.glob("*.log"), *Path("/run/podthaw").glob("plans/*/*.log")]
    newest = sorted(logs, key=lambda path: path.stat().st_mtime)[-6:]
    return [f"-- {path}\n{tail(path, 60)}" for path in newest]


def _write(results: dict[str, Any]) -> None:
    (OUTPUT / "results.json").write_text(json.dumps(results, indent=1))


def _bench(settings: dict[str, Any], cri: Cri, daemons: Daemons) -> runs.Bench:
    devices = cases.GPU if settings["gpu"] else ()

    def build(case: Case) -> Program:
        return case.program(settings["python"], settings["folders"], devices)

    suspender = Suspender() if settings["driver"] == "script" else None

    def look(pod: Running) -> str:
        if not settings["gpu"]:
            return ""
        (status, answer), (_, params) = pod.exec(*SMI), pod.exec(*PARAMS)
        if status or not answer.startswith("GPU 0:"):
            raise RuntimeError(f"nvidia-smi in {pod.name} ended with {status}: {answer}")
        return answer + params

    def thaw(pod: Running) -> dict[str, float]:
        if suspender is None:
            return {}
        return suspender.resume(suspender.users(members(pod.container)))

    return runs.Bench(
        cri=cri, daemons=daemons, build=build, capture=runs.capture, look=look, thaw=thaw
    )


if __name__ == "__main__":
    sys.exit(main())
