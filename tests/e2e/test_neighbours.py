"""What another container of the same pod holds already: no fault of the snapshot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.e2e.pods import Container, Pod
from tests.e2e.stack import Stack, is_cold

pytestmark = pytest.mark.node

LISTEN = """
import socket, sys, time
family, where = sys.argv[1:]
if family == "inet":
    held = socket.create_server(("0.0.0.0", int(where)))
else:
    held = socket.socket(socket.AF_UNIX)
    held.bind("\\0" + where)
    held.listen()
print("first line: it listens", flush=True)
time.sleep(3600)
"""


def listener(name: str, family: str, where: str) -> Container:
    return Container(name=name, args=("-u", "-c", LISTEN, family, where))


@pytest.mark.parametrize(("family", "where"), [("inet", "9091"), ("unix", "podthaw-e2e")])
def test_an_address_that_a_neighbour_has_is_no_fault_of_the_snapshot(
    stack: Stack, family: str, where: str
) -> None:
    alone = Pod(name="alone", containers=[listener("main", family, where)])
    pod = stack.pods.start(alone, ready=False)
    name = f"listens-{family}"
    stack.capture(pod, name)
    stack.pods.remove(pod)

    crowded = replace(
        alone, containers=[listener("neighbour", family, where), *alone.containers]
    ).restoring(name, container="main", on_failure="fail")
    with stack.leaves_nothing():
        running, error = stack.pods.try_start(crowded)
        assert "an address or port is in use" in error, running.log("main")
        stack.pods.remove(running)

    # Where the address is free it is restored as ever: nothing was quarantined.
    again = stack.pods.start(alone.restoring(name, on_failure="fail"), ready=False)
    assert not is_cold(again)
