"""The record of a restore."""

from __future__ import annotations

import os
from pathlib import Path

from shim import journal
from shim.__main__ import _DONE


def make(run: Path, container: str = "c1") -> journal.Journal:
    (run / "restores").mkdir(exist_ok=True)
    return journal.Journal(
        container=container, plan="0" * 32, root="/r", bundle="/b", runtime="/runc",
        global_options=["--root", "/r"], cgroups=["/g"], rootfs_path="/b/rootfs",
        path=journal.path_of(str(run), container),
    )  # fmt: skip


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    record = make(tmp_path)
    record.rootfs, record.restoring = {"target": "/x"}, True
    record.save()
    assert journal.load(str(tmp_path), "c1") == record
    assert Path(record.path).stat().st_mode & 0o777 == 0o600


def test_only_a_restored_container_has_the_mark_that_start_looks_for(tmp_path: Path) -> None:
    record = make(tmp_path)
    record.bundle = 'a"done": true"b'
    record.save()
    assert _DONE not in Path(record.path).read_bytes()
    record.done = True
    record.save()
    assert _DONE in Path(record.path).read_bytes()


def test_absent_and_damaged_records_are_none(tmp_path: Path) -> None:
    assert journal.load(str(tmp_path), "c1") is None
    record = make(tmp_path)
    for text in ("", "[]", "{", '{"container": "c1"}', '{"unknown": 1}'):
        Path(record.path).write_text(text)
        assert journal.load(str(tmp_path), "c1") is None


def test_remove_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    record = make(tmp_path)
    record.save()
    held = journal.lock(str(tmp_path), "c1")
    assert held is not None
    record.remove()
    record.remove()
    os.close(held)
    assert list((tmp_path / "restores").iterdir()) == []


def test_one_holder_at_a_time_and_a_fork_shares_the_lock(tmp_path: Path) -> None:
    run = str(tmp_path)
    held = journal.lock(run, "c1")
    assert held is not None
    assert journal.lock(run, "c1") is None
    child = os.dup(held)  # as after fork: the same open file
    os.close(held)
    assert journal.lock(run, "c1", wait=0.05) is None
    os.close(child)
    again = journal.lock(run, "c1")
    assert again is not None
    os.close(again)
