from __future__ import annotations

from pathlib import Path

import pytest

from shim import watches


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "etc/app").mkdir(parents=True)
    (tmp_path / "etc/app/conf").write_text("x")
    (tmp_path / "data").mkdir()
    (tmp_path / "etc/link").symlink_to("/")
    return tmp_path


def test_files_and_folders_are_found_by_their_inodes(tree: Path) -> None:
    wanted = [
        (tree / "etc/app/conf").stat().st_ino,
        (tree / "data").stat().st_ino,
        tree.stat().st_ino,
        1,
    ]
    assert watches.find(tree, wanted) == ["/", "/data", "/etc/app/conf"]


def test_no_search_for_nothing(tree: Path) -> None:
    assert watches.find(tree, []) == []


def test_a_search_ends_in_time(tree: Path) -> None:
    assert watches.find(tree, [(tree / "data").stat().st_ino], seconds=0) == []
