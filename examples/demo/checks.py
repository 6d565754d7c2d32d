"""What must hold of a pod that started from a snapshot: kubelet and its users notice nothing."""

from __future__ import annotations

import json
import math
import urllib.error
from collections.abc import Mapping
from typing import Any

from examples.demo import pods
from examples.demo.starts import Start
from tests.node.node import PREFIX, Node

PODTHAW = f"{PREFIX}/bin/podthaw"

TEXTS = (
    "That is a happy person",
    "That is a very happy person",
    "The quarterly figures are due on Friday",
)
"""The first two mean nearly the same, the third something else."""

COLD_LINE = "listening on port"
"""The server's first line of log: only a process that began at its beginning writes it."""


def meaning(embeddings: list[list[float]]) -> str:
    """Why these cannot be embeddings of TEXTS; empty when they can."""
    if len(embeddings) != len(TEXTS):
        return f"{len(embeddings)} vectors for {len(TEXTS)} texts"
    for vector in embeddings:
        if abs(math.sqrt(_dot(vector, vector)) - 1) > 1e-4:
            return "a vector is not of length 1"
    near = _dot(embeddings[0], embeddings[1])
    far = _dot(embeddings[0], embeddings[2])
    if near < far + 0.3:
        return f"alike texts have similarity {near:.2f}, unlike ones {far:.2f}"
    return ""


def record(node: Node, pod: str) -> Mapping[str, Any]:
    """What ``podthaw status`` knows of the pod's container."""
    command = [PODTHAW, "status", f"{pods.NAMESPACE}/{pod}", "--output", "json"]
    (only,) = json.loads(node.exec(command).stdout)
    return dict(only)


def restored(node: Node, start: Start, told: Mapping[str, Any], others: set[str]) -> list[str]:
    """What is not as it must be of a restored pod.

    ``told`` is its :func:`record`, ``others`` are the addresses of the other pods.
    """
    findings = []
    pod = start.pod
    if told["outcome"] != "restored":
        findings.append(f"podthaw status says {told['outcome']}: {told['reason']}")
    try:
        node.wait(f"readiness of {pod}", lambda: pods.ready(node, pod), timeout=60)
        hostname = pods.run(node, pod, "cat /proc/sys/kernel/hostname")
        if hostname != pod:
            findings.append(f"its hostname is {hostname}, not {pod}")
        addresses = pods.run(node, pod, "ip -4 -o addr show dev eth0")
        if f" {start.address}/" not in addresses:
            findings.append(f"its interface has not the address {start.address}: {addresses}")
        log = pods.logs(node, pod)
    except (urllib.error.URLError, TimeoutError) as error:
        return [*findings, f"kubelet could not tell: {error}"]
    if start.address in others:
        findings.append(f"its address {start.address} is another pod's")
    if COLD_LINE in log and not findings:
        findings.append("it started cold, whatever Podthaw says: its log begins at the beginning")
    if f"{len(TEXTS)} texts in" not in log:
        findings.append(f"its log does not show the answer: {log[-200:]!r}")
    if count := pods.restarts(node, pod):
        findings.append(f"kubelet has restarted its container {count} times")
    return findings


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
