"""CRIU that hangs, and processes killed in the middle of a start."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import WEB
from tests.e2e.pods import Running, eventually
from tests.e2e.rpc import RpcError
from tests.e2e.stack import Stack, is_cold

pytestmark = pytest.mark.node

HANG = "/run/criu-hangs"
SLOW_CRIU = f"""#!/bin/sh
case "$1" in
swrk) if [ -e {HANG} ]; then echo $$ > {HANG}; exec sleep 600; fi;;
esac
exec /usr/sbin/criu "$@"
"""
CONFIG = "/etc/containerd/conf.d/99-test.toml"


@pytest.fixture(scope="module")
def slow(stack: Stack, web: str) -> Iterator[str]:
    """A CRIU that hangs at a restore while the file HANG is there, and a short time limit."""
    stack.node.write("/usr/local/bin/criu", SLOW_CRIU, mode=0o755)
    text = stack.node.read("/etc/containerd/conf.d/50-podthaw.toml").decode()
    stack.node.write(CONFIG, 'version = 3\n[plugins."dev.podthaw.v1"]\nrestore_timeout = "4s"\n')
    stack.node.kill("proxy")
    stack.node.start_proxy()
    yield web
    stack.node.exec(["rm", "-f", CONFIG, "/usr/local/bin/criu", HANG])
    stack.node.write("/etc/containerd/conf.d/50-podthaw.toml", text)
    stack.node.kill("proxy")
    stack.node.start_proxy()


@pytest.fixture
def hang(stack: Stack, slow: str) -> Iterator[str]:
    """While it is used, CRIU hangs."""
    stack.node.exec(["touch", HANG])
    yield slow
    stack.node.exec(["rm", "-f", HANG])
    stack.podthaw("unquarantine", stack.digest(f"e2e/{slow}"), check=False)


def test_a_restore_that_hangs_ends_in_a_cold_start(stack: Stack, hang: str) -> None:
    with stack.leaves_nothing():
        running = stack.pods.start(WEB.restoring(hang))
        assert is_cold(running)
        assert 3.5 < running.start_seconds["main"] < 15
        stack.pods.remove(running)


def test_a_restore_that_hangs_fails_with_the_reason(stack: Stack, hang: str) -> None:
    with stack.leaves_nothing():
        running, error = stack.pods.try_start(WEB.restoring(hang, on_failure="fail"))
        assert "4" in error
        assert "second" in error
        stack.pods.remove(running)


KILLED = {"criu": 0, "runc": 1, "shim": 2}
"""Who is killed: how many generations above CRIU."""

KILL = """
p=$1; for _ in $(seq $2); do p=$(awk '/^PPid/ {print $2}' /proc/$p/status); done; kill -KILL $p
"""


@pytest.mark.parametrize("who", KILLED)
def test_killed_in_the_middle(stack: Stack, hang: str, who: str) -> None:
    """The start fails or goes on cold; afterwards nothing is left and the next start works."""
    with stack.leaves_nothing():
        outcome: list[tuple[Running, str]] = []
        starter = threading.Thread(
            target=lambda: outcome.append(stack.pods.try_start(WEB.restoring(hang)))
        )
        starter.start()
        stack.node.wait(
            "CRIU", lambda: stack.node.read(HANG).strip() != b"", timeout=10, every=0.05
        )
        criu = stack.node.read(HANG).decode().strip()
        stack.node.exec(["sh", "-c", KILL, "sh", criu, str(KILLED[who])])
        starter.join(60)
        assert not starter.is_alive()
        running, error = outcome[0]
        if not error:
            assert is_cold(running)
        stack.pods.remove(running)
    stack.node.exec(["rm", "-f", HANG])
    assert is_cold(stack.pods.start(WEB))
    stack.podthaw("unquarantine", stack.digest(f"e2e/{hang}"), check=False)
    assert not is_cold(stack.pods.start(WEB.restoring(hang, on_failure="fail")))


def test_proxy_killed_in_the_middle(stack: Stack, hang: str) -> None:
    """Its caller sees an error, as when containerd is killed; later starts work.

    (docs/limitations.md tells what containerd may leave of a start whose caller vanished.)
    """
    outcome: list[tuple[Running, str]] = []
    starter = threading.Thread(
        target=lambda: outcome.append(stack.pods.try_start(WEB.restoring(hang)))
    )
    starter.start()
    stack.node.wait("CRIU", lambda: stack.node.read(HANG).strip() != b"", timeout=10, every=0.05)
    stack.node.kill("proxy", signal="KILL")
    stack.node.start_proxy()
    starter.join(60)
    running, error = outcome[0]
    assert "UNAVAILABLE" in error
    # containerd is still at it, and lets nobody remove the container until it is done.
    assert eventually(lambda: _removed(stack, running), 20)
    stack.node.exec(["rm", "-f", HANG])
    stack.podthaw("unquarantine", stack.digest(f"e2e/{hang}"), check=False)
    assert not is_cold(stack.pods.start(WEB.restoring(hang, on_failure="fail")))


def _removed(stack: Stack, running: Running) -> bool:
    try:
        stack.pods.remove(running)
    except RpcError:
        return False
    return True


def test_an_ordinary_pod_beside_it_notices_nothing(stack: Stack, hang: str) -> None:
    neighbour = stack.pods.start(WEB)
    before = neighbour.get("/identity")
    stack.pods.start(WEB.restoring(hang))
    assert neighbour.get("/identity") == before
    assert neighbour.exec(["true"])[0] == 0
