"""One pod's start, from its manifest to its first answer, put together from three witnesses.

    kubelet's log      when it turned to the container ("Creating container in pod")
    containerd's CRI   when the sandbox and the container were made and started
    the prober         when the manifest was dropped and the first answer came

All are Unix times of one machine. The clock that counts runs from kubelet's line on, the same for
a cold start and for a restore: whatever Podthaw does in the call that follows is inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from examples.demo import pods
from tests.node.execute import CommandFailed
from tests.node.node import Node

PROBER = "/tmp/prober.py"  # noqa: S108 - the node's own
REQUEST = "/tmp/request.json"  # noqa: S108
STAGED = "/etc/kubernetes/staged"
MANIFESTS = "/etc/kubernetes/manifests"


@dataclass(frozen=True)
class Start:
    """Unix times in seconds, in their order."""

    pod: str
    address: str
    dropped: float
    sandbox: float
    asked: float
    """Kubelet turned to the container."""
    started: float
    """containerd's record: the container runs."""
    answered: float
    embeddings: list[list[float]]

    @property
    def start_s(self) -> float:
        """Seconds from kubelet's request to a running container."""
        return self.started - self.asked

    @property
    def first_answer_s(self) -> float:
        """Seconds from kubelet's request to the first answer."""
        return self.answered - self.asked

    @property
    def from_manifest_s(self) -> float:
        """Seconds from the manifest to the first answer: kubelet's own work is in it."""
        return self.answered - self.dropped


class NoAnswer(Exception):
    """A pod gave no embeddings."""


def start(
    node: Node, names: Sequence[str], *, snapshot: str | None = None, timeout: float = 600
) -> list[Start]:
    """Drop the manifests of these pods at once and wait until each has answered."""
    arguments = []
    for name in names:
        staged = f"{STAGED}/{name}.json"
        node.write(staged, json.dumps(pods.manifest(name, snapshot)))
        arguments.append(f"{name}-{node.name}={staged}")
    command = ["python3", PROBER, *arguments, "--manifests", MANIFESTS, "--request", REQUEST]
    command += ["--port", str(pods.PORT), "--timeout", f"{timeout:g}"]
    result = node.exec(command, check=False, timeout=timeout + 30)
    try:
        observed = json.loads(result.stdout)
    except ValueError:
        raise CommandFailed(result) from None
    for one in observed:
        if one["error"]:
            raise NoAnswer(f"pod {one['pod']}: {one['error']}")
    log = node.logs("kubelet")
    return [
        Start(
            pod=one["pod"],
            address=one["address"],
            dropped=one["dropped"],
            sandbox=one["sandbox"],
            asked=asked(log, one["pod"], since=one["dropped"]),
            started=one["started"],
            answered=one["answered"],
            embeddings=one["embeddings"],
        )
        for one in observed
    ]


def asked(kubelet_log: str, pod: str, *, since: float) -> float:
    """When kubelet turned to the pod's container, by the first such line after ``since``."""
    # klog's header has no year, and the node's clock is UTC.
    year = datetime.fromtimestamp(since, UTC).year
    line = re.compile(
        r"^I(\d{4} \d\d:\d\d:\d\d\.\d+) .*"
        rf'"Creating container in pod" .*pod="{pods.NAMESPACE}/{re.escape(pod)}"',
        re.MULTILINE,
    )
    for found in line.finditer(kubelet_log):
        stamp = datetime.strptime(f"{year} {found[1]} +0000", "%Y %m%d %H:%M:%S.%f %z").timestamp()
        if stamp >= since:
            return stamp
    raise NoAnswer(f"kubelet's log does not tell when it made the container of {pod}")
