"""Single steps of the undo; as a whole it is tested in test_restore.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim import undo
from tests.unit.shim.test_journal import make


def test_config_is_replaced_in_one_step_with_its_mode(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("old")
    config.chmod(0o640)
    inode = config.stat().st_ino
    undo.replace_config(str(tmp_path), b"new")
    assert config.read_text() == "new"
    assert config.stat().st_mode & 0o777 == 0o640
    assert config.stat().st_ino != inode
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_config_is_given_back(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/config.json").write_text("changed")
    (tmp_path / "aside").write_text("original")
    undo.give_back_config(str(tmp_path / "aside"), str(tmp_path / "bundle"))
    assert (tmp_path / "bundle/config.json").read_text() == "original"
    assert not (tmp_path / "aside").exists()
    with pytest.raises(FileNotFoundError):
        undo.give_back_config(str(tmp_path / "aside"), str(tmp_path / "bundle"))


def test_what_a_killed_criu_leaves_is_found_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "restore.log"
    log.write_text(
        "(00.1) Unlink remap /tmp/.criu.mntns.AbC123/mnt-0000000839/x\n"
        "(00.2) something of /tmp/other and .criu.mntns. alone\n"
        "(00.3) again /tmp/.criu.mntns.AbC123/mnt-0000000840/y\n"
    )
    assert undo._mount_roots(str(log)) == {"/tmp/.criu.mntns.AbC123"}
    assert undo._mount_roots(str(tmp_path / "absent")) == set()


def test_crius_folder_goes_and_its_log_stays(tmp_path: Path) -> None:
    journal = make(tmp_path)
    journal.work, journal.log = str(tmp_path / "c.work"), str(tmp_path / "plan/restore.log")
    undo.clean_after_criu(journal)
    (tmp_path / "c.work/.criu.cgyard.aaaaaa").mkdir(parents=True)
    (tmp_path / "c.work/restore.log").write_text("log")
    (tmp_path / "c.work/stats-restore").write_text("")
    (tmp_path / "plan").mkdir()
    undo.clean_after_criu(journal)
    assert (tmp_path / "plan/restore.log").read_text() == "log"
    assert not (tmp_path / "c.work").exists()


def test_a_plan_that_is_gone_keeps_no_log(tmp_path: Path) -> None:
    journal = make(tmp_path)
    journal.work, journal.log = str(tmp_path / "c.work"), str(tmp_path / "absent/restore.log")
    (tmp_path / "c.work").mkdir()
    (tmp_path / "c.work/restore.log").write_text("log")
    undo.clean_after_criu(journal)
    assert not (tmp_path / "c.work").exists()


def test_a_folder_that_is_not_empty_is_never_emptied_by_force(tmp_path: Path) -> None:
    journal = make(tmp_path)
    journal.work = str(tmp_path / "c.work")
    (tmp_path / "c.work/unknown/kept").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        undo.clean_after_criu(journal)
    assert (tmp_path / "c.work/unknown/kept").exists()
