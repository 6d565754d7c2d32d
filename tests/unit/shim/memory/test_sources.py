"""Where pages lie; what processes make of it is test_mapping.py's."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken
from shim.memory.files import SourceFiles
from shim.memory.model import PAGE
from shim.memory.pieces import Piece
from shim.memory.sources import Folders, Task, dumped, tasks
from tests.unit.shim.memory import dumps
from tests.unit.shim.memory.dumps import Area, Process

BASE = 0x7F0000000000


def _tasks(folder: Path, files: SourceFiles) -> list[Task]:
    return tasks(Folders.of(folder), files, earlier=None, mapped_ids=frozenset())


def test_parents_come_before_their_children_and_the_dead_are_left_out(tmp_path: Path) -> None:
    tree = [Process(1, []), Process(9, [], parent=1), Process(3, [], parent=9)]
    dumps.write(tmp_path / "images", [tree[2], tree[1], tree[0]])
    rows = [(3, 9), (9, 1), (8, 9), (1, 0)]
    entries = [dumps.message({1: pid, 2: parent}) for pid, parent in rows]
    (tmp_path / "images" / "pstree.img").write_bytes(dumps.image(images.PSTREE, entries))
    with SourceFiles() as files:
        found = _tasks(tmp_path / "images", files)
    assert [(one.pid, one.parent) for one in found] == [(1, 0), (9, 1), (3, 9)]


def test_pages_lie_one_after_the_other_in_the_order_of_the_page_map(tmp_path: Path) -> None:
    dumps.write(tmp_path / "images", [Process(1, [Area(BASE, "AA..B")])])
    with SourceFiles() as files:
        (task,) = _tasks(tmp_path / "images", files)
    assert task.complete
    assert task.pieces == [
        Piece(BASE, 2 * PAGE, 0, 0),
        Piece(BASE + 4 * PAGE, PAGE, 0, 2 * PAGE),
        Piece(dumps.STACK, PAGE, 0, 3 * PAGE),
    ]


def test_pages_that_did_not_change_lie_in_the_dump_before(tmp_path: Path) -> None:
    one = Process(1, [Area(BASE, "ABCD")], older={BASE + PAGE, BASE + 3 * PAGE})
    dumps.write(tmp_path / "images", [one])
    folders = Folders.of(tmp_path / "images")
    assert [folder.name for folder in folders.chain] == ["images", "images.pre"]
    with SourceFiles() as files:
        (task,) = _tasks(tmp_path / "images", files)
        assert not task.complete
        buffer = bytearray(4 * PAGE)
        files.read(task.pieces[:4], memoryview(buffer), BASE)
        assert task.pieces[:4] == dumped(folders, files, "pagemap-1.img")[:4]
    assert buffer == b"".join(letter * PAGE for letter in (b"A", b"B", b"C", b"D"))


def test_pages_left_behind_for_later_are_told(tmp_path: Path) -> None:
    dumps.write(tmp_path / "images", [Process(1, [])])
    path = tmp_path / "images" / "pagemap-1.img"
    head = images.decode(path.read_bytes(), "x").entries[0].message
    lazy = dumps.message({1: BASE, 2: 1, 4: 2})
    path.write_bytes(dumps.image(images.PAGEMAP, [Message.parse(head), lazy]))
    with SourceFiles() as files, pytest.raises(Broken, match="that were left behind"):
        _tasks(tmp_path / "images", files)


def test_a_list_of_processes_that_is_none_is_told(tmp_path: Path) -> None:
    dumps.write(tmp_path / "images", [Process(1, [])])
    (tmp_path / "images" / "pstree.img").write_bytes(dumps.image(images.MM, []))
    with SourceFiles() as files, pytest.raises(Broken, match="not the list of processes"):
        _tasks(tmp_path / "images", files)


def test_parents_in_a_circle_are_told(tmp_path: Path) -> None:
    for name, target in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "parent").symlink_to(f"../{target}")
    with pytest.raises(Broken, match="which is no earlier dump"):
        Folders.of(tmp_path / "a")
