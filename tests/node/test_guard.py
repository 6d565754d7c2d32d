"""The guard's filter and CRIU: several chains of filters, threads and processes, there and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim import guard
from shim.guard import filter as bpf
from shim.guard import launch
from tests.node.node import FILES, Node

pytestmark = pytest.mark.node

FOLDER = "/tmp/guarded"
DUMP = f"""
cd {FOLDER} && rm -rf $1 && mkdir $1
criu dump -t $(cat pid) -D $1 -o dump.log -v4 --manage-cgroups=ignore --network-lock skip $2 \
  || {{ grep Error $1/dump.log; exit 1; }}
"""
RESTORE = f"""
cd {FOLDER} && rm -f pid
criu restore -d -D $1 -o restore.log -v4 --manage-cgroups=ignore --pidfile {FOLDER}/pid \
  || {{ grep Error $1/restore.log; exit 1; }}
"""
RANGE = (0x10000000000, 0x10000000000 + (1 << 20))


@pytest.fixture
def dump(node: Node) -> Iterator[Path]:
    """The images of a program with filters of its own (tests/node/files/filters.py)."""
    node.exec(["rm", "-rf", FOLDER])
    node.exec(["mkdir", "-p", FOLDER])
    node.write(f"{FOLDER}/filters.py", (FILES / "filters.py").read_text())
    start = f"echo $$ > {FOLDER}/pid; exec python3 {FOLDER}/filters.py {FOLDER} > {FOLDER}/log 2>&1"
    node.spawn("guarded", ["setsid", "sh", "-c", start])
    node.wait("the program", lambda: node.path(f"{FOLDER}/ready").exists(), timeout=20)
    node.exec(["sh", "-c", DUMP, "sh", "first", ""])
    yield node.path(f"{FOLDER}/first")
    node.exec(
        ["sh", "-c", f"cd {FOLDER}; for p in $(cat pid) $(cat child); do kill -9 $p; done; true"]
    )


def processes(node: Node) -> list[int]:
    """The numbers on this machine of the restored program and its child."""
    inner = {node.read(f"{FOLDER}/{name}").decode().strip() for name in ("pid", "child")}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            if (
                node.path("/").samefile(folder / "root")
                and status.split("NSpid:")[1].split("\n")[0].split()[-1] in inner
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)


def ask(node: Node) -> dict[str, Any]:
    """What each thread of the program finds out."""
    node.exec(["sh", "-c", f"cd {FOLDER} && rm -f answer-* && kill -USR1 $(cat pid) $(cat child)"])
    answers = [node.path(f"{FOLDER}/answer-{name}") for name in ("parent", "child")]
    node.wait("the answers", lambda: all(path.exists() for path in answers), timeout=20)
    return {path.name[7:]: json.loads(path.read_bytes()) for path in answers}


def test_filters_listeners_and_a_second_dump(node: Node, dump: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in dump.glob("*.img")}
    guard.add(dump, [RANGE])
    (tmp_path / "cgroup").mkdir()
    agent = launch.start(
        "c", [str(tmp_path / "cgroup")], run=str(tmp_path / "run"), log=str(tmp_path / "log")
    )
    try:
        node.exec(["sh", "-c", RESTORE, "sh", "first"])
        pids = processes(node)
        assert len(pids) == 2
        (tmp_path / "cgroup/cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
        agent.ready(time.monotonic() + 20)
        for pid in pids:
            links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
            assert not [link for link in links if "seccomp" in link]
        # EACCES (13) is what the program's filters answer, EINVAL (22) the kernel to an advice that
        # it does not know, after the agent has let it pass; without an agent it is ENOSYS (38).
        every = {"getpgrp": 13, "madvise": 22}
        answers = ask(node)
        assert answers["parent"] == [every | {"getsid": 0}] * 3
        assert sorted(answers["child"], key=str) == sorted(
            [every | {"getsid": 13}, every | {"getsid": 0}], key=str
        )
        with guard.paused(str(tmp_path / "run"), "c"):
            node.exec(["sh", "-c", DUMP, "sh", "second", "--leave-running"])
        second = node.path(f"{FOLDER}/second")
        assert guard.strip(second)
        assert not guard.strip(second)
        for name in ("seccomp.img", "pstree.img"):
            assert (second / name).read_bytes() == before[name]
        assert ask(node) == answers
    finally:
        guard.stop(agent.pid, agent.started)
    for one in (one for name in ask(node).values() for one in name):
        assert one["madvise"] == 38
    assert not (tmp_path / "log").exists()


def test_the_kernel_takes_the_filter_for_the_most_ranges(node: Node, dump: Path) -> None:
    many = [(at << 32, (at << 32) + 4096) for at in range(1, 2 * bpf.MOST)]
    guard.add(dump, many)
    node.exec(["sh", "-c", RESTORE, "sh", "first"])
    status = node.read(f"/proc/{node.read(f'{FOLDER}/pid').decode().strip()}/status").decode()
    assert "Seccomp_filters:\t2" in status
