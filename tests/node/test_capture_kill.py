"""Whoever is killed in the middle of a capture, the container runs on and nothing is left."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.node import capturing
from tests.node.capturing import busy, check_undisturbed, name_of, podthaw, unique
from tests.node.cri import Container, Cri
from tests.node.node import Node

pytestmark = pytest.mark.node

# Runs a capture and kills, after a moment, what it is told of it. Processes are found by their
# ancestry and command line, and only below the capture that was started here.
ASSASSIN = """
import json, os, signal, subprocess, time
command, moment, victims = json.loads(sys.argv[1]), float(sys.argv[2]), sys.argv[3].split(",")
def descendants(top):
    found, parents = {}, {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                stat = open(f"/proc/{name}/stat").read()
                parents[int(name)] = int(stat[stat.rfind(")") + 2:].split()[1])
                found[int(name)] = open(f"/proc/{name}/cmdline").read()
            except OSError:
                pass
    def below(pid):
        while pid in parents and pid != top:
            pid = parents[pid]
        return pid == top
    return {pid: words for pid, words in found.items() if pid != top and below(pid)}
def kind(words):
    if words.split("\\0")[:2] == ["criu", "dump"]:
        return "criu"
    return "guardian" if "guardian.main()" in words else ""
def family(top):
    # CRIU's own children have its command line, too: the first is meant.
    found = sorted(descendants(top).items(), reverse=True)
    return {kind(words): pid for pid, words in found}
capture = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
end = time.monotonic() + 30
while capture.poll() is None and time.monotonic() < end:
    if "criu" in family(capture.pid):
        break
time.sleep(moment)
family = family(capture.pid)
family["capture"] = capture.pid
hit = []
for victim in victims:
    if victim in family and (victim != "capture" or capture.poll() is None):
        os.kill(family[victim], signal.SIGKILL)
        hit.append(victim)
output = capture.communicate()[0]
others = [pid for name, pid in family.items() if name and name != "capture"]
end = time.monotonic() + 40
while time.monotonic() < end:  # until CRIU and the guardian are gone, too
    alive = []
    for pid in others:
        try:
            stat = open(f"/proc/{pid}/stat").read()
            alive += [pid] if stat[stat.rfind(")") + 2] not in "ZX" else []
        except OSError:
            pass
    if not alive:
        break
    time.sleep(0.05)
print(json.dumps({"hit": hit, "status": capture.returncode, "output": output}))
"""

MOMENTS = (0.0, 0.03, 0.08, 0.15, 0.25, 0.4)
"""Seconds after CRIU's start: freezing, files, memory, reading of the files, publication."""


@pytest.fixture(scope="module")
def victim(node: Node) -> Iterator[Container]:
    """One container for all: it must survive every attempt."""
    with node.cri() as cri, busy(node, cri, 200) as container:
        yield container


def _attempt(
    node: Node, container: Container, moment: float, victims: str
) -> dict[str, str | int | list[str]]:
    command = [capturing.PODTHAW, "capture", name_of(container), "--name", "killed"]
    told = capturing.python(node, ASSASSIN, json.dumps(command), str(moment), victims)
    value: dict[str, str | int | list[str]] = json.loads(told.stdout)
    return value


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victims", ["criu", "capture", "criu,capture"])
def test_a_kill(node: Node, victim: Container, victims: str, moment: float) -> None:
    found = _attempt(node, victim, moment, victims)
    if found["hit"] == ["criu"]:
        assert found["status"] == 1
        assert "the container runs on: CRIU was killed by signal 9" in str(found["output"])
    check_undisturbed(node, victim)


@pytest.mark.parametrize("moment", MOMENTS[1:5])
def test_when_nobody_is_left_the_next_capture_undoes(
    node: Node, victim: Container, moment: float
) -> None:
    _attempt(node, victim, moment, "guardian,criu,capture")
    podthaw(node, "capture", name_of(victim), "--name", unique("next"))
    node.exec(["sh", "-c", f"rm -rf {capturing.STORE}/tmp/*"])  # the store's own gc, an hour later
    check_undisturbed(node, victim)


def test_an_orderly_stop_leaves_nothing(node: Node, victim: Container) -> None:
    """As the daemon does when kubelet gives a checkpoint up."""
    command = [capturing.PODTHAW, "capture", name_of(victim), "--name", "stopped"]
    script = '"$@" & sleep 0.6; kill -TERM $!; wait $!; echo $?'
    told = node.exec(["sh", "-c", script, "sh", *command], check=False).stdout.split()
    assert told[-1] in ("130", "0")
    check_undisturbed(node, victim)


def test_the_container_restores_nothing_of_this(node: Node, victim: Container) -> None:
    """After all of it, an ordinary capture still works."""
    podthaw(node, "capture", name_of(victim), "--name", unique("last"))
    check_undisturbed(node, victim)


def test_there_is_one_guardian_less(node: Node, cri_of: Cri) -> None:
    """A guardian that is killed is no reason for a capture to fail."""
    with busy(node, cri_of, 200) as container:
        found = _attempt(node, container, 0.05, "guardian")
        assert found["status"] == 0, found["output"]
        check_undisturbed(node, container)


@pytest.fixture
def cri_of(node: Node) -> Iterator[Cri]:
    with node.cri() as client:
        yield client
