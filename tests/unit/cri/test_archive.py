from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from cri import archive
from tests.unit.cri.test_manifesting import target


@pytest.fixture
def dump(tmp_path: Path) -> tuple[Path, Path]:
    stage, work = tmp_path / "stage", tmp_path / "work"
    (stage / "images").mkdir(parents=True)
    work.mkdir()
    (stage / "images/inventory.img").write_bytes(b"inventory")
    (stage / "images/descriptors.json").write_text("[]")
    (stage / "rootfs.tar").write_bytes(b"layer")
    (work / "dump.log").write_text("log")
    (work / "stats-dump").write_bytes(b"stats")
    return stage, work


def test_what_is_in_the_tar(tmp_path: Path, dump: tuple[Path, Path]) -> None:
    log = tmp_path / "0.log"
    log.write_text("hello\n")
    found = target(tmp_path, created_at=1_700_000_000_000_000_000, log_path=str(log))
    location = tmp_path / "checkpoint.tar"
    archive.write(found, *dump, location)
    assert location.stat().st_mode & 0o777 == 0o600
    with tarfile.open(location) as tar:
        content = {
            entry.name: file.read() if (file := tar.extractfile(entry)) else b""
            for entry in tar.getmembers()
        }
    assert list(content) == [
        "checkpoint",
        "checkpoint/descriptors.json",
        "checkpoint/inventory.img",
        "config.dump",
        "spec.dump",
        "status.dump",
        "status",
        "rootfs-diff.tar",
        "dump.log",
        "stats-dump",
        "container.log",
    ]
    config = json.loads(content["config.dump"])
    assert config["rootfsImageName"] == "example/app:1"
    assert config["createdTime"] == "2023-11-14T22:13:20Z"
    assert config["restored"] is False
    status = json.loads(content["status"])
    assert status["CreatedAt"] == 1_700_000_000_000_000_000
    assert json.loads(content["spec.dump"])["process"] == {"args": ["server"]}
    assert json.loads(content["status.dump"])["metadata"] == {"name": "main", "attempt": 3}
    assert content["container.log"] == b"hello\n"
    assert content["rootfs-diff.tar"] == b"layer"


def test_an_older_file_is_replaced_whole(tmp_path: Path, dump: tuple[Path, Path]) -> None:
    location = tmp_path / "checkpoint.tar"
    location.write_text("old")
    archive.write(target(tmp_path), *dump, location)
    assert tarfile.is_tarfile(location)


def test_nothing_is_left_when_it_fails(tmp_path: Path, dump: tuple[Path, Path]) -> None:
    location = tmp_path / "out/checkpoint.tar"
    location.parent.mkdir()
    location.write_text("old")
    stage, work = dump
    (stage / "images/bad").symlink_to(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        archive.write(target(tmp_path), stage, work, location)
    assert [path.name for path in location.parent.iterdir()] == ["checkpoint.tar"]
    assert location.read_text() == "old"
