"""Shared memory of a pod: brought in without overwriting, taken back exactly."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shim import shm
from shim.errors import Broken, Unfit
from tests.unit.shim.tars import Tar


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    (folder / "other").write_text("of another container")
    return folder


@pytest.fixture
def shared(memory: Path) -> shm.Shared:
    return shm.Shared(source=str(memory), staging=".podthaw-1")


def archive(tmp_path: Path, fill: Callable[[Tar], object]) -> str:
    tar = Tar(tmp_path / "shm.tar")
    fill(tar)
    return tar.done()


def usual(tar: Tar) -> None:
    tar.add("sem.x", b"sem", mode=0o600).add("dir").add("dir/in", b"in").add("other-dir")
    tar.link("dir/link", "in").hard("same", "sem.x")


def nothing() -> None:
    pass


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_extracted_and_taken_back(tmp_path: Path, memory: Path, shared: shm.Shared) -> None:
    shm.extract(archive(tmp_path, usual), shared, {}, nothing)
    assert tree(memory) == ["dir", "dir/in", "dir/link", "other", "other-dir", "same", "sem.x"]
    assert (memory / "sem.x").read_text() == "sem"
    assert (memory / "same").samefile(memory / "sem.x")
    assert (memory / "sem.x").stat().st_mode & 0o777 == 0o600
    assert shared.folders == ["dir", "other-dir"]
    shm.take_back(shared)
    assert tree(memory) == ["other"]
    shm.take_back(shared)


def test_what_is_there_is_never_overwritten(
    tmp_path: Path, memory: Path, shared: shm.Shared
) -> None:
    (memory / "sem.x").write_text("foreign")
    with pytest.raises(Unfit, match=r"/dev/shm/sem\.x is there already with other content"):
        shm.extract(archive(tmp_path, usual), shared, {}, nothing)
    assert (memory / "sem.x").read_text() == "foreign"
    shm.take_back(shared)
    assert tree(memory) == ["other", "sem.x"]


@pytest.mark.parametrize("kind", ["link", "dir", "fifo"])
def test_something_else_of_that_name(
    tmp_path: Path, memory: Path, shared: shm.Shared, kind: str
) -> None:
    target = memory / "sem.x"
    {"link": lambda: target.symlink_to("other"), "dir": target.mkdir,
     "fifo": lambda: os.mkfifo(target)}[kind]()  # fmt: skip
    with pytest.raises(Unfit):
        shm.extract(archive(tmp_path, usual), shared, {}, nothing)
    shm.take_back(shared)
    assert tree(memory) == ["other", "sem.x"]


def test_the_same_content_fits_and_stays(tmp_path: Path, memory: Path, shared: shm.Shared) -> None:
    (memory / "sem.x").write_text("sem")
    (memory / "dir").mkdir()
    (memory / "dir/link").symlink_to("in")
    shm.extract(archive(tmp_path, usual), shared, {}, nothing)
    shm.take_back(shared)
    assert tree(memory) == ["dir", "dir/link", "other", "sem.x"]


def test_a_second_restore_of_the_same_container_replaces_its_own(
    tmp_path: Path, memory: Path, shared: shm.Shared
) -> None:
    source, run = archive(tmp_path, usual), str(tmp_path / "run")
    shm.extract(source, shared, {}, nothing)
    shm.remember(run, "sandbox", "main", shared.made)
    (memory / "sem.x").write_text("used by processes that are gone")
    again = shm.Shared(source=str(memory), staging=".podthaw-2")
    shm.extract(source, again, shm.remembered(run, "sandbox", "main"), nothing)
    assert (memory / "sem.x").read_text() == "sem"
    assert shm.remembered(run, "sandbox", "other") == {}
    shm.forget(run, "sandbox")
    assert shm.remembered(run, "sandbox", "main") == {}


def test_a_file_that_took_the_name_later_is_not_taken_back(
    tmp_path: Path, memory: Path, shared: shm.Shared
) -> None:
    shm.extract(archive(tmp_path, usual), shared, {}, nothing)
    (memory / "sem.x").unlink()
    (memory / "spacer").write_text("so that the inode is another one")
    (memory / "sem.x").write_text("new")
    (memory / "dir/foreign").write_text("foreign")
    shm.take_back(shared)
    assert tree(memory) == ["dir", "dir/foreign", "other", "sem.x", "spacer"]


def test_everything_is_on_record_before_it_happens(
    tmp_path: Path, memory: Path, shared: shm.Shared
) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def save() -> None:
        seen.append((sorted(shared.made), [name for name in tree(memory) if "podthaw" not in name]))

    shm.extract(archive(tmp_path, usual), shared, {}, save)
    assert seen[0] == ([], ["other"])
    assert seen[1] == (["dir/in", "dir/link", "same", "sem.x"], ["other"])


HOSTILE: dict[str, Callable[[Tar], object]] = {
    "up": lambda tar: tar.add("../x", b""),
    "absolute": lambda tar: tar.add("/x", b""),
    "device": lambda tar: tar.add("d", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "staging": lambda tar: tar.add(".podthaw-1/0", b""),
    "hard link out": lambda tar: tar.hard("x", "../kept"),
    "hard link to another's": lambda tar: tar.hard("x", "other"),
    "through a link": lambda tar: tar.add("link/x", b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(tmp_path: Path, memory: Path, shared: shm.Shared, name: str) -> None:
    (tmp_path / "kept").mkdir()
    (memory / "link").symlink_to(tmp_path / "kept")
    with pytest.raises(Broken):
        shm.extract(archive(tmp_path, HOSTILE[name]), shared, {}, nothing)
    shm.take_back(shared)
    assert tree(memory) == ["link", "other"]
    assert list((tmp_path / "kept").iterdir()) == []


def test_the_source_is_the_bind_mount() -> None:
    mount = {"destination": "/dev/shm", "type": "bind", "source": "/run/x/shm"}
    assert shm.source_of({"mounts": [{"destination": "/proc"}, mount]}) == "/run/x/shm"
    for mounts in ([], [{**mount, "type": "tmpfs"}], [{**mount, "source": "relative"}]):
        with pytest.raises(Unfit, match="shared memory"):
            shm.source_of({"mounts": mounts})


def test_memory_that_is_gone_needs_no_taking_back(tmp_path: Path) -> None:
    shm.take_back(shm.Shared(source=str(tmp_path / "absent"), staging="s", made={"a": 1}))
