from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import leftovers
from shim.container import start_time
from shim.cuda import session
from shim.leftovers import Criu, Record

RULE = (
    "-A INPUT -s 10.88.0.1/32 -d 10.88.0.5/32 -p tcp -m tcp --sport 42 --dport 80 "
    "-m mark ! --mark 0xc114 -j DROP"
)


def record(**changes: object) -> Record:
    made = Record(
        container="c",
        pid=os.getpid(),
        started=start_time(os.getpid()) or 0,
        freezer=None,
        cgroup_version=1,
        since=time.time(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_record_is_read_back(tmp_path: Path) -> None:
    made = record(scratch=["/x"], link_folders=["/y"])
    made.write(tmp_path / "r.json")
    assert leftovers.read(tmp_path / "r.json") == made
    assert (tmp_path / "r.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@given(st.binary(max_size=100))
def test_any_file_is_a_record_or_none(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(data)
    assert leftovers.read(path) is None


def test_an_absent_record(tmp_path: Path) -> None:
    assert leftovers.read(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("version", "name", "frozen", "thawed"),
    [(1, "freezer.state", "FROZEN", "THAWED"), (2, "cgroup.freeze", "1", "0")],
)
def test_thawing(tmp_path: Path, version: int, name: str, frozen: str, thawed: str) -> None:
    state = tmp_path / name
    state.write_text(frozen + "\n")
    assert leftovers.is_frozen(tmp_path, version)
    assert leftovers.thaw(str(tmp_path), version)
    assert state.read_text() == thawed
    assert not leftovers.thaw(str(tmp_path), version)
    assert not leftovers.is_frozen(tmp_path, version)
    assert not leftovers.thaw(str(tmp_path / "absent"), version)


def test_freezing(tmp_path: Path) -> None:
    (tmp_path / "cgroup.freeze").write_text("0")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert leftovers.freeze(str(tmp_path), 2)
    assert (tmp_path / "cgroup.freeze").read_text() == "1"


def test_what_does_not_freeze_is_thawed_again(tmp_path: Path) -> None:
    (tmp_path / "cgroup.freeze").write_text("0")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert not leftovers.freeze(str(tmp_path), 2, seconds=0.05)
    assert (tmp_path / "cgroup.freeze").read_text() == "0"


def test_only_criu_s_rules_are_deleted() -> None:
    assert leftovers.delete_rule(RULE) == ["-D", *RULE.split()[1:]]
    for line in (
        "-P INPUT ACCEPT",
        "-A INPUT -j DROP",
        RULE.replace("0xc114", "0xc115"),
        RULE.replace("! --mark", "--mark"),
        RULE.replace("DROP", "ACCEPT"),
        "",
    ):
        assert leftovers.delete_rule(line) is None


def test_only_this_dump_s_table_is_deleted() -> None:
    table = "CRIU-80cc3ca9-9587-4ce9-bfaa-c1d2e3f40516"
    listing = (
        "table inet CRIU-80cc3ca9-9587-4ce9-bf\n"
        "table inet CRIU-adc2b1e9-b01e-45f1-83\n"
        "table inet CRIU-\ntable ip CRIU-80cc3ca9-9587-4ce9-bf\ntable inet filter\n"
    )
    assert leftovers.own_tables(listing, table) == ["CRIU-80cc3ca9-9587-4ce9-bf"]
    assert leftovers.own_tables(listing, None) == []


def test_the_table_is_named_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "dump.log"
    log.write_text("(00.000) Version: 4.2\n(00.001) CRIU run id = 80cc3ca9-9587\n")
    assert leftovers.table_name(log) == "CRIU-80cc3ca9-9587"
    log.write_text("nothing")
    assert leftovers.table_name(log) is None
    assert leftovers.table_name(tmp_path / "absent") is None


def test_temporary_names_go_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("link_remap.7", "d/link_remap.12", "link_remap.x", "my.link_remap.7", "file"):
        (tmp_path / name).write_text("")
    assert leftovers.remove_links(tmp_path, time.time() + 3600) == 0
    assert leftovers.remove_links(tmp_path, time.time() - 10) == 2
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["d", "file", "link_remap.x", "my.link_remap.7"]


def test_undoing_without_a_container_removes_files(tmp_path: Path) -> None:
    (tmp_path / "stage/images").mkdir(parents=True)
    (tmp_path / "stage/images/x").write_text("x")
    (tmp_path / "socket").write_text("")
    gone = record(
        started=1,
        scratch=[str(tmp_path / "stage"), str(tmp_path / "socket"), str(tmp_path / "absent")],
    )
    assert leftovers.undo(gone) == []
    assert [path.name for path in tmp_path.iterdir()] == []


def test_when_only_files_are_left_the_container_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "freezer.state").write_text("FROZEN")  # somebody else paused it meanwhile
    (tmp_path / "stage").mkdir()
    found = record(freezer=str(tmp_path), scratch=[str(tmp_path / "stage")])
    assert leftovers.undo(leftovers.only_files(found)) == []
    assert (tmp_path / "freezer.state").read_text() == "FROZEN"
    assert not (tmp_path / "stage").exists()


def test_undoing_tells_what_it_did(tmp_path: Path) -> None:
    (tmp_path / "freezer.state").write_text("FROZEN")
    (tmp_path / "files").mkdir()
    (tmp_path / "files/link_remap.1").write_text("")
    found = record(
        started=1,
        freezer=str(tmp_path),
        link_folders=[str(tmp_path / "files")],
    )
    told = leftovers.undo(found)
    assert told == [
        "thawed the container",
        f"removed 1 temporary names in {tmp_path / 'files'}",
    ]


def _started(code: str) -> subprocess.Popen[str]:
    """A process that stands for CRIU: a session of its own, deaf to SIGXFSZ."""
    process = subprocess.Popen(
        [sys.executable, "-c", "print('ready', flush=True)\n" + code],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        restore_signals=False,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_criu_that_writes_ends_by_itself(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        f"with open({str(tmp_path / 'image')!r}, 'wb', buffering=0) as file:\n"
        "    try:\n"
        "        while True:\n"
        "            file.write(b'x'); time.sleep(0.01)\n"
        "    except OSError as error:\n"
        "        sys.exit(3 if error.errno == 27 else 4)\n"
    )
    process = _started(code)
    criu = Criu(pid=process.pid, started=start_time(process.pid) or 0)
    leftovers.stop(criu, patience=20)
    assert process.wait() == 3
    assert process.stdout is not None
    process.stdout.close()


def test_a_criu_that_hangs_is_killed_with_its_children() -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
        "print(child.pid, flush=True); time.sleep(99)\n"
    )
    process = _started(code)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    leftovers.stop(Criu(pid=process.pid, started=start_time(process.pid) or 0), patience=0.2)
    assert process.wait() == -signal.SIGKILL
    assert start_time(child) is None
    process.stdout.close()


def test_another_process_with_the_same_number_is_left_alone() -> None:
    process = _started("import time; time.sleep(99)")
    leftovers.stop(Criu(pid=process.pid, started=1), patience=0.1)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_processes_are_brought_back_to_their_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def bring_back(how: str, processes: dict[int, int]) -> tuple[list[str], list[str]]:
        asked.append((how, processes))
        return ["unlocked process 1 (x)"], ["process 2 (y) is lost"]

    monkeypatch.setattr(session, "bring_back", bring_back)
    me = {str(os.getpid()): start_time(os.getpid()) or 0}
    made = record(cuda="driver", cuda_processes=me)
    assert leftovers.undo(made) == [
        "unlocked process 1 (x)",
        "not brought back: process 2 (y) is lost",
    ]
    assert asked == [("driver", {os.getpid(): start_time(os.getpid())})]
    assert leftovers.undo(made, touched=False) == []
    assert leftovers.undo(record(cuda="driver", cuda_processes={str(os.getpid()): 1})) == []
    assert leftovers.undo(leftovers.only_files(made)) == []
    assert len(asked) == 1
