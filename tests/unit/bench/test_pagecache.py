from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench import pagecache

SIZE = 3 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder/file"
    path.parent.mkdir()
    path.write_bytes(os.urandom(SIZE))
    return path


def test_what_is_dropped_is_not_there_and_what_is_read_is(file: Path) -> None:
    try:
        pagecache.resident([file])
    except OSError as error:
        pytest.skip(f"this kernel does not tell: {error}")
    left = pagecache.drop([file])
    if left:
        pytest.skip("this file system keeps its files in memory")
    assert pagecache.resident([file]) == 0
    assert pagecache.warm([file]) == 1.0
    assert pagecache.resident([file]) == SIZE


def test_files_are_those_below_a_folder_without_links(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    assert pagecache.files(tmp_path) == [file]
    assert pagecache.on_disk([file]) == SIZE


def test_what_is_written_to_measure_the_disk_does_not_stay(tmp_path: Path) -> None:
    assert pagecache.write(tmp_path / "x", SIZE) > 0
    assert list(tmp_path.iterdir()) == []
