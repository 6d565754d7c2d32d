"""The oracle: what a program sees of its own state, in an ordinary container and in a restored one.

One pod is set up, captured and goes on; two pods are restored from it. Each behaviour of
tests/e2e/workloads is asked in all of them, and must give the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.e2e import netns
from tests.e2e.conftest import WEB
from tests.e2e.pods import GATEWAY, Container, Pod, Running
from tests.e2e.stack import Stack, is_cold
from tests.e2e.workloads import runner
from tests.node import limits

pytestmark = pytest.mark.node

UNIFIED = "/sys/fs/cgroup/cgroup.controllers"
"""There on a node with cgroup v2."""

REGISTRY = runner.BEHAVIOURS

ORDINARY = [name for name, kind in REGISTRY.items() if not kind.limit and not kind.needs]
LOST = [name for name, kind in REGISTRY.items() if kind.limit == "lost"]
REFUSED = [name for name, kind in REGISTRY.items() if kind.limit == "refused"]

STRICT_ORDINARY = [
    name for name in ORDINARY if not REGISTRY[name].root_only and not REGISTRY[name].writes_image
]


@dataclass
class Trip:
    """A captured pod, the pods restored from it, and what each answered."""

    original: Running
    restored: list[Running]
    before: Any
    """The original's identity before the capture."""
    seen: list[dict[str, Any]]
    """What the behaviours saw: in the original, then in each restored pod."""
    identities: list[Any]


def make_trip(stack: Stack, pod: Pod, name: str) -> Trip:
    """Start, capture, restore twice, ask everyone."""
    original = stack.pods.start(pod)
    before = original.get("/identity")
    stack.capture(original, name)
    restored = [stack.pods.start(pod.restoring(name)) for _ in range(2)]
    running = [original, *restored]
    for one in running:
        one.kept = True
    identities = [one.get("/identity") for one in running]
    # The original last: were anything shared, the restored ones would have used it up.
    seen = [one.observe() for one in reversed(running)][::-1]
    return Trip(original, restored, before, seen, identities)


@pytest.fixture(scope="module")
def outside(stack: Stack) -> Iterator[netns.LineServer]:
    """A server outside of all pods."""
    stack.pods.remove(stack.pods.start(Pod(), ready=False))  # makes CNI's bridge
    with netns.LineServer(stack.node.pid, GATEWAY) as server:
        yield server


@pytest.fixture(scope="module")
def trip(stack: Stack, outside: netns.LineServer) -> Iterator[Trip]:
    """The trip of all behaviours in a root container."""
    arguments = ("-B", "-u", "-m", "workloads.runner", *ORDINARY, "outside", *LOST)
    container = Container(args=arguments, env={"OUTSIDE": outside.address})
    done = make_trip(stack, Pod(name="inside", containers=[container]), "inside")
    yield done
    for pod in [done.original, *done.restored]:
        stack.pods.remove(pod)


def test_the_pods_were_restored(trip: Trip) -> None:
    assert is_cold(trip.original)
    assert [is_cold(pod) for pod in trip.restored] == [False, False]


@pytest.mark.parametrize("name", ORDINARY)
def test_behaviour(trip: Trip, name: str) -> None:
    answers = [seen[name] for seen in trip.seen]
    assert isinstance(answers[0], dict), answers[0]
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


@pytest.mark.parametrize("name", LOST)
@pytest.mark.xfail(strict=True, reason="CRIU does not bring it back (docs/limitations.md)")
def test_documented_loss(trip: Trip, name: str) -> None:
    assert trip.seen[1][name] == trip.seen[0][name]


def test_outside_connections_are_closed_and_the_program_goes_on(trip: Trip) -> None:
    original, *restored = (seen["outside"] for seen in trip.seen)
    # The capture disturbed no connection of the original…
    assert original == {
        "exchange": "pong\n",
        "blocked read": "still waiting",
        "new connection": "pong\n",
    }
    for one in restored:
        # … and a restored program sees its connections fail, as after a network partition.
        assert one["exchange"].startswith(("OSError", "BrokenPipe", "ConnectionReset")), one
        assert one["blocked read"] != "still waiting"
        assert one["new connection"] == "pong\n"


def test_identity_is_the_new_pods(trip: Trip) -> None:
    pods = [trip.original, *trip.restored]
    unified = trip.original.pods.node.exec(["test", "-e", UNIFIED], check=False).status == 0
    for pod, identity in zip(pods, trip.identities, strict=True):
        assert identity["hostname"] == identity["uname"] == pod.hostname
        assert identity["/etc/hostname"] == pod.hostname
        assert pod.uid in identity["/etc/hosts"]
        assert f"search {pod.name}.svc.cluster.local" in identity["/etc/resolv.conf"]
        assert identity["token"] == pod.token
        assert pod.ip in identity["addresses"]
        if unified:  # it is the root of its own cgroup namespace (test_cgroup2 looks from outside)
            assert identity["cgroup"].endswith("0::/\n")
        else:
            assert pod.id() in identity["cgroup"]
    assert len({pod.ip for pod in pods}) == 3


def test_volumes_are_the_new_pods(trip: Trip) -> None:
    original, *restored = trip.identities
    assert original["volume"] == trip.before["volume"]
    assert all(one["volume"] == [] for one in restored)


def test_the_environment_of_a_running_program_stays(trip: Trip) -> None:
    original, *restored = trip.identities
    assert all(one["env"] == original["env"] for one in restored)


def test_process_ids_inside_stay(trip: Trip) -> None:
    assert {identity["pid"] for identity in trip.identities} == {1}


def test_capture_leaves_the_original_as_it_was(trip: Trip) -> None:
    assert trip.identities[0] == trip.before


# -- a container without privileges ----------------------------------------------------------


@pytest.fixture(scope="module")
def strict(stack: Stack) -> Iterator[Trip]:
    """The trip in a container with a user, no capabilities, and a read-only root filesystem."""
    container = Container(
        args=("-B", "-u", "-m", "workloads.runner", *STRICT_ORDINARY),
        env={"SCRATCH": "/dev/shm"},
        security={
            "readonly_rootfs": True,
            "no_new_privs": True,
            "capabilities": {"drop_capabilities": ["ALL"]},
            "seccomp": {"profile_type": "RuntimeDefault"},
        },
    )
    done = make_trip(stack, Pod(name="strict", containers=[container]), "strict")
    yield done
    for pod in [done.original, *done.restored]:
        stack.pods.remove(pod)


@pytest.mark.parametrize("name", STRICT_ORDINARY)
def test_behaviour_without_privileges(strict: Trip, name: str) -> None:
    answers = [seen[name] for seen in strict.seen]
    assert isinstance(answers[0], dict), answers[0]
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


# -- what CRIU refuses -----------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_refused_capture_disturbs_nothing(stack: Stack, name: str) -> None:
    arguments = ("-B", "-u", "-m", "workloads.runner", name)
    container = Container(
        args=arguments, security={"capabilities": {"add_capabilities": ["SYS_ADMIN"]}}
    )
    pod = stack.pods.start(Pod(name="limit", containers=[container]))
    with stack.leaves_nothing():
        result = stack.capture(pod, "limit", check=False)
        assert result.status != 0
        assert len(result.stderr.strip().splitlines()) <= 30
        assert "Traceback" not in result.stderr
    assert isinstance(pod.observe()[name], dict)


# -- a container of another user -------------------------------------------------------------


@pytest.fixture(scope="module")
def user(stack: Stack) -> Iterator[Trip]:
    """The trip in a container with user 1000, group 2000 and no capabilities."""
    if not stack.node.dumps_users:
        pytest.skip("the test node dumps programs of other users only if a C compiler is here")
    container = Container(
        args=("-B", "-u", "-m", "workloads.runner", *STRICT_ORDINARY),
        env={"SCRATCH": "/dev/shm"},
        security={
            "run_as_user": {"value": 1000},
            "run_as_group": {"value": 2000},
            "supplemental_groups": [3000],
            "readonly_rootfs": True,
            "no_new_privs": True,
            "capabilities": {"drop_capabilities": ["ALL"]},
        },
    )
    done = make_trip(stack, Pod(name="user", containers=[container]), "user")
    yield done
    for pod in [done.original, *done.restored]:
        stack.pods.remove(pod)


@pytest.mark.parametrize("name", STRICT_ORDINARY)
def test_behaviour_of_another_user(user: Trip, name: str) -> None:
    answers = [seen[name] for seen in user.seen]
    assert isinstance(answers[0], dict), answers[0]
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


def test_the_user_is_the_same(user: Trip) -> None:
    assert [identity["uid"] for identity in user.identities] == [1000, 1000, 1000]


def test_a_missing_capability_is_told(stack: Stack) -> None:
    """CRIU as the node's package has it: it cannot do without, and the program goes on."""
    if limits.has_capability(stack.node) or not stack.node.dumps_users:
        pytest.skip("the node does not have its CRIU changed")
    table = f'version = 3\n[plugins."dev.podthaw.v1"]\ncriu = "{limits.REAL}/criu"\n'
    stack.node.write("/run/bare.toml", table)
    container = replace(WEB.containers[0], security={"run_as_user": {"value": 1000}})
    pod = stack.pods.start(replace(WEB, containers=[container]))
    before = pod.get("/identity")
    command = ["--config", "/run/bare.toml", "capture", f"{pod.pod.namespace}/{pod.name}"]
    (warned,) = json.loads(stack.podthaw(*command, "--check", "-o", "json").stdout)["findings"]
    assert (warned["check"], warned["severity"]) == ("privilege", "warn")
    with stack.leaves_nothing():
        result = stack.podthaw(*command, "--name", "bare", check=False)
    assert result.status == 1
    assert "limits only with CAP_SYS_RESOURCE" in result.stderr
    assert pod.get("/identity") == before
