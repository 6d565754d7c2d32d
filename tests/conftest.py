"""Fixtures that any test may use; the test node is started when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

import pytest

from tests.node.debian import Unavailable
from tests.node.node import Node

StartNode = Callable[..., Node]


@pytest.fixture(scope="session")
def start_node() -> Iterator[StartNode]:
    """Start a node: ``start_node("trixie", name="n2", store=…)``, as :class:`Node` takes it.

    It lives to the end of the test run. Where a node cannot be had, the test is skipped with the
    reason; on CI, which is there to run it, that is a failure.
    """
    with ExitStack() as nodes:

        def start(
            flavour: str = "sid",
            *,
            name: str = "n1",
            store: str | None = None,
            unified: bool = False,
        ) -> Node:
            try:
                return nodes.enter_context(Node(flavour, name=name, store=store, unified=unified))
            except Unavailable as error:
                if os.environ.get("CI"):
                    pytest.fail(f"the test node cannot be started: {error}", pytrace=False)
                pytest.skip(f"no test node: {error}")

        yield start


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest, start_node: StartNode) -> Node:
    """A node with containerd running and this working tree's Podthaw installed.

    The flavour is sid, or what ``@pytest.mark.parametrize("node", FLAVOURS, indirect=True)`` says.
    """
    started = start_node(getattr(request, "param", "sid"))
    started.install_podthaw()
    started.start_containerd()
    return started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the last lines of the daemons of every node that a failed test used."""
    report = yield
    if report.failed:
        values = getattr(item, "funcargs", {}).values()
        for used in (value for value in values if isinstance(value, Node)):
            report.sections.append((f"node {used.name} ({used.flavour})", used.recent_logs()))
    return report
