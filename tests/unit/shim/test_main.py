"""The program as a whole, over a runtime that writes down what it was called with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shim.container import start_time
from tests.unit.shim.test_runtime import REPOSITORY, launcher, program


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    program(tmp_path / "bin/runc", f'printf "%s\\n" "$@" >> {tmp_path}/calls; exit ${{STATUS:-0}}')
    (tmp_path / "run").mkdir()
    return launcher(tmp_path / "podthaw-runc")


def call(shim: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    folder = shim.parent
    path = f"{folder}/bin:/usr/bin:/bin"
    return subprocess.run(
        [shim, *arguments],
        env={"PATH": path, "PODTHAW_RUN": f"{folder}/run", **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def calls(shim: Path) -> list[str]:
    return (shim.parent / "calls").read_text().splitlines()


@pytest.mark.parametrize("verb", ["state", "kill", "exec", "checkpoint", "events", "no-such-verb"])
def test_other_verbs_go_to_the_runtime_unchanged(shim: Path, verb: str) -> None:
    arguments = ["--root", "/r", verb, "--all", "", "create", "a b"]
    assert call(shim, *arguments, STATUS="7").returncode == 7
    assert calls(shim) == arguments


def test_a_bundle_without_a_plan_goes_to_the_runtime(shim: Path) -> None:
    (shim.parent / "config.json").write_text("{}")
    arguments = ["create", "--bundle", str(shim.parent), "c"]
    assert call(shim, *arguments).returncode == 0
    assert calls(shim) == arguments


def test_a_bundle_that_is_not_there_is_the_runtimes_to_report(shim: Path) -> None:
    assert call(shim, "create", "--bundle", "/absent", "c", STATUS="3").returncode == 3


def test_the_words_elsewhere_in_the_bundle_are_no_plan(shim: Path) -> None:
    spec = {"process": {"env": ["A=podthaw.dev/plan"]}, "annotations": {}}
    (shim.parent / "config.json").write_text(json.dumps(spec))
    arguments = ["create", "--bundle", str(shim.parent), "c"]
    assert call(shim, *arguments).returncode == 0
    assert calls(shim) == arguments


@pytest.mark.parametrize(
    ("plan", "reason"),
    [("0" * 32, "there is no plan"), ("../../etc", "not 32 hexadecimal digits"), ("", "not 32")],
)
def test_a_hand_made_annotation_fails_with_the_reason_where_containerd_looks(
    shim: Path, plan: str, reason: str
) -> None:
    spec = {"annotations": {"podthaw.dev/plan": plan}}
    (shim.parent / "config.json").write_text(json.dumps(spec))
    log = shim.parent / "log.json"
    done = call(
        shim, "--log", str(log), "--log-format", "json", "create", "-b", str(shim.parent), "c"
    )
    assert done.returncode == 1
    assert reason in json.loads(log.read_text())["msg"]
    assert not (shim.parent / "calls").exists()


def test_the_end_of_a_sandbox_drops_the_records_of_its_shared_memory(shim: Path) -> None:
    records = shim.parent / "run/shm/sandbox"
    records.mkdir(parents=True)
    (records / "main").write_text("{}")
    assert call(shim, "delete", "other").returncode == 0
    assert records.exists()
    assert call(shim, "delete", "sandbox").returncode == 0
    assert not records.exists()
    assert calls(shim) == ["delete", "other", "delete", "sandbox"]


@pytest.mark.parametrize("kind", ["lock", "journal"])
def test_whatever_goes_wrong_is_a_line_where_containerd_looks(shim: Path, kind: str) -> None:
    """Say a run directory in disorder: a folder stands where a file belongs."""
    restores = shim.parent / "run/restores"
    restores.mkdir()
    if kind == "lock":
        journal = {
            "container": "c", "plan": "0" * 32, "root": "/r", "bundle": "/b", "runtime": "/runc",
            "global_options": [], "cgroups": [], "rootfs_path": "/absent",
        }  # fmt: skip
        (restores / "c").write_text(json.dumps(journal))
        (restores / "c.lock").mkdir()
    else:
        (restores / "c").mkdir()
    log = shim.parent / "log.json"
    done = call(shim, "--log", str(log), "--log-format", "json", "delete", "c")
    assert "Traceback" not in done.stderr
    if kind == "journal":  # nothing to undo: the runtime deletes
        assert (done.returncode, calls(shim)[-2:]) == (0, ["delete", "c"])
        return
    assert done.returncode == 1
    assert "podthaw-runc failed: IsADirectoryError" in json.loads(log.read_text())["msg"]


def test_no_runtime_at_all_is_a_sentence(shim: Path) -> None:
    (shim.parent / "bin/runc").unlink()
    done = call(shim, "state", "c", PATH="/absent")
    assert done.returncode == 1
    assert "no OCI runtime runc is on the PATH" in done.stderr


def test_the_hot_path_imports_next_to_nothing(shim: Path) -> None:
    """Each import here costs every start of every container on the node."""
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); sys.argv = ['x', 'state', 'c']\n"
        "before = set(sys.modules)\nimport shim.__main__\n"
        "print(' '.join(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert shim.exists()
    allowed = (
        "shim shim.__main__ shim.argv shim.runlog shim.runtime __future__ time "
        "os os.path stat _stat posixpath genericpath _collections_abc"
    )
    assert set(done.stdout.split()) <= set(allowed.split())


def test_start_of_a_restored_container_unlocks_its_gpu_processes(shim: Path) -> None:
    """Of others nothing is loaded; the driver that is asked here is a program."""
    restores = shim.parent / "run/restores"
    restores.mkdir()
    program = shim.parent / "cuda-checkpoint"
    program.write_text(f'#!/bin/sh\necho "$*" >> {shim.parent}/asked\n')
    program.chmod(0o755)
    me = os.getpid()
    journal = {
        "container": "c", "plan": "0" * 32, "root": "/r", "bundle": "/b", "runtime": "/runc",
        "global_options": [], "cgroups": [], "rootfs_path": "/absent", "done": True,
        "cuda": str(program), "locked": {},
    }  # fmt: skip
    (restores / "c").write_text(json.dumps(journal))
    assert call(shim, "start", "c").returncode == 0
    assert not (shim.parent / "asked").exists()
    locked = {str(me): start_time(me), "1": 12345}
    (restores / "c").write_text(json.dumps({**journal, "locked": locked}))
    for _ in range(2):
        assert call(shim, "start", "c").returncode == 0
    asked = (shim.parent / "asked").read_text().splitlines()
    assert [line for line in asked if "--help" not in line] == [f"--action unlock --pid {me}"]
    assert json.loads((restores / "c").read_text())["locked"] == {}
