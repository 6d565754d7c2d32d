from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cri.store.files import Area, node_name, write_all
from shim.errors import PodthawError, Refused, Unfit


@pytest.fixture
def area(tmp_path: Path) -> Area:
    area = Area(tmp_path / "store", "node-1")
    area.create()
    return area


def test_created_folders_are_private(area: Area) -> None:
    for folder in (area.root, *area.root.iterdir()):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(one.name for one in area.root.iterdir()) == [
        "names",
        "pins",
        "snapshots",
        "tmp",
        "used",
    ]


def test_write_read_unlink(area: Area) -> None:
    area.write(b"one", "names", "shop", "web")
    assert area.read("names", "shop", "web") == b"one"
    area.write(b"two", "names", "shop", "web")
    assert area.read("names", "shop", "web") == b"two"
    path = area.root / "names/shop/web"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list((area.root / "tmp").iterdir()) == []
    assert area.unlink("names", "shop", "web")
    assert not area.unlink("names", "shop", "web")
    assert area.read("names", "shop", "web") is None
    assert area.read("names", "nowhere", "web") is None


def test_entries_are_sorted_without_hidden_ones(area: Area) -> None:
    for name in ("b", ".nfs0001", "a"):
        (area.root / "names" / name).mkdir()
    assert area.entries("names") == ["a", "b"]
    assert area.entries("names", "nowhere") == []


def test_a_link_in_place_of_a_folder_is_not_followed(area: Area, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "web").write_text("secret")
    (area.root / "names/shop").symlink_to(outside)
    for act in (
        lambda: area.read("names", "shop", "web"),
        lambda: area.write(b"x", "names", "shop", "web"),
        lambda: area.unlink("names", "shop", "web"),
        lambda: area.entries("names", "shop"),
        lambda: area.status("names", "shop", "web"),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - either of two numbers
            act()
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert (outside / "web").read_text() == "secret"


def test_a_link_in_place_of_a_file_is_not_followed_but_replaced(area: Area, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    (area.root / "names/shop").mkdir()
    (area.root / "names/shop/web").symlink_to(outside)
    with pytest.raises(OSError, match="Too many levels"):
        area.read("names", "shop", "web")
    area.write(b"new", "names", "shop", "web")
    assert area.read("names", "shop", "web") == b"new"
    assert outside.read_text() == "secret"


@pytest.mark.parametrize("kind", ["fifo", "directory", "large"])
def test_only_a_small_plain_file_is_read(area: Area, kind: str) -> None:
    path = area.root / "names/odd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"x" * 5000)
    with pytest.raises(OSError, match="not a small plain file"):
        area.read("names", "odd")


def test_a_store_that_others_can_write_is_refused(area: Area) -> None:
    area.root.chmod(0o777)
    with pytest.raises(
        Refused, match=r"can be written by other users \(mode 0777\): wanted 0700, so run `chmod"
    ):
        area.entries("names")


def test_the_root_itself_may_be_a_link(area: Area, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(area.root)
    linked = Area(tmp_path / "link", "node-1")
    linked.write(b"x", "names", "n")
    assert area.read("names", "n") == b"x"


def test_write_survives_that_its_folder_is_removed_meanwhile(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename
    times = 0

    def racing(*args: object, **kwargs: object) -> None:
        nonlocal times
        times += 1
        if times == 1:
            (area.root / "pins/x").rmdir()
        rename(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", racing)
    area.write(b"", "pins", "x", "user")
    assert times == 2
    assert area.read("pins", "x", "user") == b""
    assert list((area.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind", "sentence"),
    [
        (errno.ENOSPC, Unfit, "is full and cannot take it: make room with `podthaw gc`"),
        (errno.EDQUOT, Unfit, "is full and cannot take it"),
        (errno.EROFS, Unfit, "cannot take it: it is mounted read-only"),
        (errno.EACCES, Unfit, "cannot take it: permission denied for user "),
        (errno.EPERM, Unfit, "cannot take it: permission denied for user "),
        (errno.ELOOP, Refused, "cannot take it: a symbolic link or something else"),
        (errno.ENOTDIR, Refused, "cannot take it: a symbolic link or something else"),
        (errno.ESTALE, Unfit, "cannot take it: another node changed it meanwhile, try again"),
        (errno.EIO, Unfit, "cannot take it: input/output error"),
    ],
)
def test_each_failure_is_a_sentence(
    area: Area, number: int, kind: type[PodthawError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence) as caught, area.sentences("take it"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"the snapshot store {area.root} ")


def test_an_absent_store_is_a_sentence(tmp_path: Path) -> None:
    area = Area(tmp_path / "none")
    with (
        pytest.raises(Unfit, match=rf"^there is no snapshot store at {tmp_path}/none: "),
        area.sentences("be read"),
    ):
        area.entries("names")


def test_a_file_where_the_store_belongs_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unfit, match="cannot be created: file exists"):
        Area(tmp_path / "file").create()


def test_temporary_names_differ_and_name_the_node(area: Area) -> None:
    names = {area.fresh_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(f"node-1.{os.getpid()}.") for name in names)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("node-1", "node-1"),
        ("Node_1.Example", "node-1.example"),
        ("../etc", "etc"),
        ("a/b", "a-b"),
        ("", "node"),
        ("...", "node"),
        ("x" * 300, "x" * 128),
    ],
)
def test_node_name_is_one_plain_path_component(host: str, name: str) -> None:
    assert node_name(host) == name


def test_write_all_goes_on_after_a_short_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
    write_all(fd, b"0123456789")
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"0123456789"
