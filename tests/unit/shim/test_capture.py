"""The parts that need no container; dumps of real ones are in tests/node/test_capture.py."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import cast

import pytest

from shim import capture
from shim.capture import Order
from shim.container import ContainerRef, start_time
from shim.dumprun import CaptureFailed
from shim.errors import Unfit
from shim.guardian import Guardian
from shim.leftovers import Record


def container(tmp_path: Path, **changes: object) -> ContainerRef:
    fields: dict[str, object] = {
        "id": "ab" * 32,
        "bundle": tmp_path,
        "rootfs": tmp_path,
        "pid": os.getpid(),
        "started": start_time(os.getpid()),
        "spec": {},
        "cgroups": {},
        "descriptors": (),
    }
    return ContainerRef(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_lock_is_exclusive_and_leaves_no_file(tmp_path: Path) -> None:
    with (
        capture.locked("c", tmp_path),
        pytest.raises(Unfit, match="another capture"),
        capture.locked("c", tmp_path),
    ):
        pass
    assert [path.name for path in (tmp_path / "locks").iterdir()] == []
    with capture.locked("c", tmp_path), capture.locked("d", tmp_path):
        pass


def test_the_lock_holds_among_many(tmp_path: Path) -> None:
    inside, most, entered = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, entered
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                with capture.locked("c", tmp_path):
                    with guard:
                        inside += 1
                        entered += 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except Unfit:
                continue

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entered > 6


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(Unfit, match="cannot be used"), capture.locked("c", tmp_path):
        pass


def test_what_an_earlier_capture_left_is_undone(tmp_path: Path) -> None:
    (tmp_path / "captures").mkdir()
    (tmp_path / "freezer.state").write_text("FROZEN")
    (tmp_path / "stage").mkdir()
    Record(
        container="c",
        pid=1,
        started=1,
        freezer=str(tmp_path),
        cgroup_version=1,
        since=0,
        scratch=[str(tmp_path / "stage")],
    ).write(tmp_path / "captures/c.json")
    with capture.exclusive("c", tmp_path):
        assert (tmp_path / "freezer.state").read_text() == "THAWED"
    assert [path.name for path in (tmp_path / "captures").iterdir()] == []
    assert not (tmp_path / "stage").exists()
    assert capture.recover("c", tmp_path) == []


def test_an_interrupted_undo_is_left_to_the_guardian(tmp_path: Path) -> None:
    released = []

    class Watcher:
        def release(self, *, well: bool) -> None:
            released.append(well)

    for settled in (True, False):
        with capture.exclusive("c", tmp_path) as session:
            session.record.parent.mkdir(exist_ok=True)
            session.record.write_text("{}")
            session.guardian = cast("Guardian", Watcher())
            session.settled = settled
        assert session.record.exists() is not settled
    assert released == [True, False]


def test_a_root_filesystem_that_is_no_overlay(tmp_path: Path) -> None:
    order = Order(stage=tmp_path / "stage", work=tmp_path / "work", run=tmp_path / "run")
    with pytest.raises(Unfit, match="overlay"):
        capture.dump(container(tmp_path), order)
    assert not (tmp_path / "stage").exists()
    assert [path.name for path in (tmp_path / "run/locks").iterdir()] == []


@pytest.mark.parametrize(
    ("status", "log", "words"),
    [
        (1, "(0.1) Error (x.c:1): write: No space left on device\n", "the disk is full"),
        (1, "(0.1) Error (x.c:1): Something new\n", "status 1: Error (x.c:1): Something new"),
        (1, "", "said nothing"),
        (-9, "(0.1) Freezing\n", "killed by signal 9"),
    ],
)
def test_a_failure_is_explained(tmp_path: Path, status: int, log: str, words: str) -> None:
    order = Order(stage=tmp_path, work=tmp_path)
    (tmp_path / "dump.log").write_text(log)
    with pytest.raises(CaptureFailed) as caught:
        capture._check_status(status, order)
    assert words in str(caught.value)
    assert "the container runs on" in str(caught.value)
    capture._check_status(0, order)
