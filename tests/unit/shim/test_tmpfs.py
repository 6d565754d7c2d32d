from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from shim import mounts, tmpfs
from shim.errors import Unfit

ENTRY = {"owner": os.getuid(), "group": os.getgid(), "target": "", "device": [0, 0]}
WANTED = {
    "key": "podthaw-tmpfs-104",
    "source": "tmpfs",
    "options": "mode=755",
    "flags": 1,
    "entries": [
        {**ENTRY, "path": "", "mode": stat.S_IFDIR | 0o1777, "modified": 1.0},
        {**ENTRY, "path": "pts", "mode": stat.S_IFDIR | 0o750, "modified": 2.0},
        {**ENTRY, "path": "pts/log", "mode": stat.S_IFREG | 0o666, "modified": 3.0},
        {**ENTRY, "path": "fd", "mode": stat.S_IFLNK | 0o777, "modified": 4.0, "target": "/none"},
        {**ENTRY, "path": "fifo", "mode": stat.S_IFIFO | 0o622, "modified": 5.0},
    ],
}


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would have been mounted: an ordinary folder stands for the file system."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(mounts, "mount", lambda *arguments: calls.append(arguments))
    return calls


def test_files_are_made_as_they_were(tmp_path: Path, mounted: list[tuple[Any, ...]]) -> None:
    order = tmp_path / "tmpfs.json"
    order.write_text(json.dumps([WANTED]))
    before = os.umask(0o077)
    lines = tmpfs.make(str(order), str(tmp_path))
    assert os.umask(before) == 0o077
    place = tmp_path / "memory-0"
    assert lines == [f"external mnt[podthaw-tmpfs-104]:{place}\n"]
    assert mounted == [
        ("tmpfs", str(place), "tmpfs", 0, "mode=755"),
        ("", str(place), "", 1 | 32, ""),
    ]
    for entry in WANTED["entries"]:  # type: ignore[attr-defined]
        status = os.lstat(place / entry["path"])
        assert (status.st_mode, status.st_mtime) == (entry["mode"], entry["modified"]), entry
    assert str((place / "fd").readlink()) == "/none"


def test_one_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(mounts, "mount", refuse)
    order = tmp_path / "tmpfs.json"
    order.write_text(json.dumps([WANTED]))
    with pytest.raises(Unfit, match="cannot be made: Operation not permitted"):
        tmpfs.make(str(order), str(tmp_path))
