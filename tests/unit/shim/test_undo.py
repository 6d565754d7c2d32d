"""Single steps of the undo; as a whole it is tested in test_restore.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shim import undo
from tests.unit.shim.test_journal import make


def test_config_is_replaced_in_one_step_with_its_mode(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("old")
    config.chmod(0o640)
    inode = config.stat().st_ino
    kept = undo.original_config(str(tmp_path))
    undo.replace_config(str(tmp_path), b"new", keep=kept)
    assert config.read_text() == "new"
    assert config.stat().st_mode & 0o777 == 0o640
    assert config.stat().st_ino != inode
    assert Path(kept).stat().st_ino == inode
    undo.give_back_config(kept, str(tmp_path))
    assert (config.read_text(), config.stat().st_ino) == ("old", inode)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(FileNotFoundError):
        undo.give_back_config(kept, str(tmp_path))


def test_config_that_was_kept_and_not_yet_replaced_is_given_back(tmp_path: Path) -> None:
    kept = undo.original_config(str(tmp_path))
    (tmp_path / "config.json").write_text("old")
    os.link(tmp_path / "config.json", kept)
    undo.give_back_config(kept, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "old"


def test_config_stays_when_there_is_no_room_for_another(tmp_path: Path) -> None:
    """Also one that has been replaced before the disk was full is given back."""
    script = """
import os, sys
from shim import undo
kept = undo.original_config("d")
open("d/config.json", "w").write("old")
undo.replace_config("d", b"new", keep=kept)
fill = os.open("d/fill", os.O_CREAT | os.O_WRONLY)
try:
    while True: os.write(fill, bytes(1 << 16))
except OSError: pass
undo.give_back_config(kept, "d")
try: undo.replace_config("d", bytes(1 << 16), keep=kept)
except OSError as error: print(error.strerror)
print(sorted(os.listdir("d")), open("d/config.json").read())
"""
    (tmp_path / "d").mkdir()
    mount = 'mount -t tmpfs -o size=64k none d && exec python3 -c "$0"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "No space left on device\n['config.json', 'fill'] old\n"


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


def test_the_mount_point_of_mapped_memory_goes(tmp_path: Path) -> None:
    """Also where the root filesystem is no overlay, whose layer would be emptied."""
    record = make(tmp_path)
    record.restoring, record.stub = True, str(tmp_path / ".podthaw-pages")
    record.rootfs_path = str(tmp_path)
    (tmp_path / ".podthaw-pages").touch()
    undo._forget_container(record)
    assert not (tmp_path / ".podthaw-pages").exists()
    undo._forget_container(record)  # as every step, it may be done twice


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
