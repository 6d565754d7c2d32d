"""The stack that the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.pods import Container, Pod
from tests.e2e.stack import Stack
from tests.node.node import Node


@pytest.fixture(scope="session")
def stack(node: Node) -> Iterator[Stack]:
    """One node for all tests that leave it as they found it."""
    running = Stack(node)
    yield running
    running.close()


WEB = Pod(name="web", containers=[Container(args=("-B", "-u", "-m", "workloads.runner", "none"))])
"""A small server without behaviours: quick to start, capture and restore."""


@pytest.fixture(scope="session")
def web(stack: Stack) -> str:
    """The name of a snapshot of WEB."""
    pod = stack.pods.start(WEB)
    stack.capture(pod, "web")
    stack.pods.remove(pod)
    return "web"


@pytest.fixture(autouse=True)
def _no_pods_stay(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pods that a test started are removed with it; those of fixtures stay."""
    if "stack" not in request.fixturenames:
        yield
        return
    stack: Stack = request.getfixturevalue("stack")
    before = list(stack.pods.running)
    yield
    for pod in list(stack.pods.running):
        if pod not in before and not pod.kept:
            stack.pods.remove(pod)
