"""The static pods of the demo, and what it asks kubelet about them."""

from __future__ import annotations

import urllib.parse
from typing import Any

from examples.demo.image import NAME as IMAGE
from tests.node.node import Node

NAMESPACE = "default"
CONTAINER = "embeddings"
PORT = 8080
SNAPSHOT_ANNOTATION = "podthaw.dev/snapshot"


def manifest(name: str, snapshot: str | None = None) -> dict[str, Any]:
    """A pod of the embeddings server; with ``snapshot``, one that is to start from it."""
    metadata: dict[str, Any] = {"name": name, "namespace": NAMESPACE}
    if snapshot:
        metadata["annotations"] = {SNAPSHOT_ANNOTATION: snapshot}
    health = {"httpGet": {"path": "/healthz", "port": PORT}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [
                {
                    "name": CONTAINER,
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "ports": [{"containerPort": PORT}],
                    # However slow the machine, a cold start is waited for.
                    "startupProbe": health | {"periodSeconds": 1, "failureThreshold": 600},
                    "readinessProbe": health | {"periodSeconds": 1},
                    "livenessProbe": health | {"periodSeconds": 5, "timeoutSeconds": 5},
                }
            ],
        },
    }


def ready(node: Node, pod: str) -> bool:
    """Whether the readiness probe has passed."""
    status = node.pods().get(pod, {}).get("status", {})
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions", [])
    )


def restarts(node: Node, pod: str) -> int:
    """How often kubelet has started the container again."""
    statuses = node.pods()[pod]["status"].get("containerStatuses", [])
    return sum(int(status["restartCount"]) for status in statuses)


def run(node: Node, pod: str, command: str) -> str:
    """What a command prints in the container: ``kubectl exec`` without a terminal."""
    query = urllib.parse.urlencode({"cmd": command})
    path = f"/run/{NAMESPACE}/{pod}/{CONTAINER}?{query}"
    return node.kubelet(path, method="POST").decode(errors="replace").strip()


def logs(node: Node, pod: str) -> str:
    """The container's log: ``kubectl logs``."""
    return node.kubelet(f"/containerLogs/{NAMESPACE}/{pod}/{CONTAINER}").decode(errors="replace")
