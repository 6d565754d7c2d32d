"""Changes in a tree whose links and names are hostile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import Broken
from shim.treewalk import Tree, split


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a/b", ("a", "b")),
        ("./a//b/", ("a", "b")),
        ("", ()),
        (".", ()),
        ("./", ()),
        ("...", ("...",)),
    ],
)
def test_split(name: str, parts: tuple[str, ...]) -> None:
    assert split(name) == parts


@pytest.mark.parametrize("name", ["/a", "..", "a/../b", "../../etc", "a/..", "a\0b"])
def test_split_refuses_what_leads_out(name: str) -> None:
    with pytest.raises(Broken):
        split(name)


@given(st.text(max_size=30))
def test_a_name_that_is_split_stays_inside(name: str) -> None:
    try:
        parts = split(name)
    except Broken:
        return
    assert os.path.normpath("/top/" + "/".join(parts)).startswith("/top")


def test_a_link_on_the_way_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "file").write_text("keep")
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(outside)
    (top / "back").symlink_to("..")
    with Tree(str(top)) as tree:
        for parts in [("link",), ("link", "deep"), ("back", "outside")]:
            with pytest.raises(Broken, match="no directory here"):
                tree.directory(parts)
        for parts in [("link", "file"), ("back", "outside", "file")]:
            with pytest.raises(Broken):
                tree.remove(parts)
        tree.remove(("link",))
    assert not (top / "link").is_symlink()
    assert (outside / "file").read_text() == "keep"


def test_removing_a_tree_spares_what_its_links_point_at(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("keep")
    top = tmp_path / "top"
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/b/out").symlink_to(kept)
    (top / "a/b/file").write_text("gone")
    with Tree(str(top)) as tree:
        tree.directory(("a", "b"))
        tree.remove(("a",))
        tree.remove(("a",))
        tree.clear(("absent", "too"))
    assert list(top.iterdir()) == []
    assert (kept / "file").exists()


def test_clear_keeps_the_directory(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/f").write_text("")
    with Tree(str(tmp_path)) as tree:
        tree.clear(("a",))
        assert tree.status(("a",)) is not None
        assert tree.status(("a", "b")) is None
        assert tree.status(("x", "y")) is None


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Tree(str(tmp_path)) as tree:
        tree.directory(("a", "b"))
        with tree.held(("a",)) as fd:
            tree.directory(("a", "b"))
            os.fstat(fd)
        with pytest.raises(FileNotFoundError):
            tree.directory(("a", "b", "c"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
