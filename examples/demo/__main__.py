"""``python -m examples.demo``: set everything up, measure, show; exit 1 when anything is amiss."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from examples.demo import checks, pods, report
from examples.demo.image import embeddings_image
from examples.demo.report import Outcome, Restored
from examples.demo.starts import PROBER, REQUEST, NoAnswer, Start, start
from tests.node import cache, engine, kubernetes
from tests.node.debian import Unavailable
from tests.node.execute import CommandFailed
from tests.node.node import PROXY_SOCKET, Node

OUTPUT = Path(__file__).parents[2] / "build/demo.json"
SNAPSHOT = "embeddings"
WANTED_RATIO = 8.0


def set_up(node: Node) -> None:
    """Bring the node to where kubelet waits for pods, behind the proxy."""
    archive = embeddings_image(node.client)
    with cache.step("starting containerd, importing the images"):
        node.install_podthaw()
        node.start_containerd()
        node.import_image(archive)
    with cache.step("starting podthaw proxy and kubelet"):
        node.start_proxy()
        # Verbosity 4 has the line that starts the clock.
        node.start_kubelet(f"unix://{PROXY_SOCKET}", logging={"verbosity": 4})
    node.write(PROBER, (Path(__file__).parent / "prober.py").read_bytes())
    node.write(REQUEST, json.dumps({"texts": checks.TEXTS}))


def start_cold(node: Node) -> Start:
    """The pod that everything is measured against."""
    with cache.step("one pod, the ordinary way"):
        (cold,) = start(node, ["embeddings-cold"])
        if wrong := checks.meaning(cold.embeddings):
            raise NoAnswer(f"pod {cold.pod} answers, but wrongly: {wrong}")
        node.wait(f"readiness of {cold.pod}", lambda: pods.ready(node, cold.pod), timeout=60)
    return cold


def capture(node: Node, pod: str) -> dict[str, Any]:
    """Capture the running pod; it runs on."""
    command = ["capture", f"{pods.NAMESPACE}/{pod}", "--name", SNAPSHOT]
    with cache.step(" ".join(["podthaw", *command])):
        told = node.exec([checks.PODTHAW, *command, "--output", "json"], timeout=600).stdout
    taken = json.loads(told)
    return {key: taken[key] for key in ("seconds", "frozen_seconds", "size")}


def restore(node: Node, names: list[str], cold: Start, addresses: set[str]) -> list[Restored]:
    """Start these pods at once from the snapshot, and look at each."""
    with cache.step(f"from the snapshot: {', '.join(names)}"):
        starts = start(node, names, snapshot=SNAPSHOT)
        result = []
        for one in starts:
            equal = one.embeddings == cold.embeddings
            told = checks.record(node, one.pod)
            findings = checks.restored(node, one, told, addresses)
            if not equal:
                findings.append("its embeddings differ from the cold pod's")
            addresses.add(one.address)
            phases = {"decide": told["decided_in"]} | told["phases"]
            result.append(Restored(one, told["outcome"], equal, phases, tuple(findings)))
    return result


def machine(node: Node, load: float) -> dict[str, Any]:
    """What the figures were measured on; ``load`` is the load average before the start."""

    def version(program: str) -> str:
        # Behind the version there may be a commit, which has no dot.
        words = node.exec([program, "--version"]).stdout.splitlines()[0].split()
        return next(
            word for word in reversed(words) if "." in word and word.lstrip("v")[:1].isdigit()
        )

    programs = {name: version(name) for name in ("kubelet", "containerd", "runc", "criu")}
    return {
        "cpus": os.cpu_count(),
        "load_before": round(load, 1),
        "kernel": platform.release(),
        **programs,
    }


def run() -> Outcome:
    """The whole story."""
    # What takes minutes the first time comes before the node.
    embeddings_image(engine.connect())
    kubernetes.kubelet()
    load = os.getloadavg()[0]
    if load > (os.cpu_count() or 1) / 2:
        print(
            f"== note: this machine is busy (load average {load:.1f}), which shows in the figures",
            file=sys.stderr,
        )
    node = Node()
    try:
        with cache.step("starting the node"):
            node.start()
        set_up(node)
        cold = start_cold(node)
        captured = capture(node, cold.pod)
        addresses = {cold.address}
        one_by_one: list[Restored] = []
        together: list[Restored] = []
        for number in (1, 2, 3):
            one_by_one += restore(node, [f"embeddings-{number}"], cold, addresses)
            if one_by_one[-1].findings:
                explain(node, one_by_one[-1].start.pod)
                break
        else:
            together = restore(node, [f"embeddings-{n}" for n in (4, 5, 6)], cold, addresses)
        return Outcome(cold, one_by_one, together, captured, machine(node, load))
    finally:
        node.stop()


def explain(node: Node, pod: str) -> None:
    """What Podthaw itself knows of the pod, the end of CRIU's log included."""
    command = [checks.PODTHAW, "status", f"{pods.NAMESPACE}/{pod}", "--output", "yaml"]
    print(node.exec(command, check=False).stdout.strip(), file=sys.stderr)


def main() -> int:
    """Run, show, write the file; the exit status tells whether all was as it must be."""
    argparse.ArgumentParser(description=__doc__.partition(":")[2]).parse_args()
    try:
        outcome = run()
    except (Unavailable, NoAnswer, CommandFailed, RuntimeError, OSError) as error:
        print(f"the demo did not come to its end: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(report.as_json(outcome), indent=2) + "\n")
    print(f"\n{report.table(outcome)}\n\n{report.timeline(outcome)}\n")
    print(
        f"The capture took {outcome.capture['seconds']:.1f} s, of which the pod stood still for "
        f"{outcome.capture['frozen_seconds']:.1f} s; the snapshot has "
        f"{outcome.capture['size'] / 2**20:.0f} MiB."
    )
    print(
        f"The first answer came {outcome.ratio:.1f} times sooner than cold "
        f"(the slowest of {len(outcome.one_by_one)}). Written to {OUTPUT}."
    )
    wrong = [f"{one.start.pod}: {what}" for one in outcome.restored for what in one.findings]
    if not wrong and outcome.ratio < WANTED_RATIO:
        wrong.append(f"the ratio is {outcome.ratio:.1f}; at least {WANTED_RATIO:g} was wanted")
    for line in wrong:
        print(f"NOT AS IT MUST BE: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
