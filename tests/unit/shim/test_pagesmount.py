from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shim import mounts, pagesmount
from shim.errors import Unfit
from shim.mounts import Mounted

OURS = Mounted(
    id=77, target="/.podthaw-pages", type="ext4", source="/dev/vda", flags=["ro", "nosuid"],
    options=["rw"], root="/podthaw/store/snapshots/ab/pages",
)  # fmt: skip


def test_the_runtime_is_told_of_one_more_mount() -> None:
    spec = {"mounts": [{"destination": "/proc"}], "hostname": "h"}
    changed = pagesmount.add(spec, "/store/1/pages")
    assert changed["mounts"] == [
        {"destination": "/proc"},
        {
            "destination": "/.podthaw-pages",
            "type": "bind",
            "source": "/store/1/pages",
            "options": ["bind", "ro", "nosuid", "nodev"],
        },
    ]
    assert changed["hostname"] == "h"
    assert spec["mounts"] == [{"destination": "/proc"}]


@pytest.mark.parametrize(
    "place", ["/.podthaw-pages", ".podthaw-pages", "//.podthaw-pages/", "/.podthaw-pages/below"]
)
def test_a_container_with_a_mount_of_its_own_there(tmp_path: Path, place: str) -> None:
    with pytest.raises(Unfit, match=r"this container has a mount at /\.podthaw-pages"):
        pagesmount.check({"mounts": [{"destination": place}]}, str(tmp_path))


def test_a_container_with_a_file_of_its_own_there(tmp_path: Path) -> None:
    near = {"mounts": [{"destination": "/.podthaw-pages-too"}]}
    pagesmount.check(near, str(tmp_path))
    (tmp_path / ".podthaw-pages").symlink_to("nowhere")
    with pytest.raises(Unfit, match=r"this container has a file /\.podthaw-pages, where"):
        pagesmount.check(near, str(tmp_path))


@pytest.mark.parametrize(
    ("mount", "ours"),
    [
        (OURS, True),
        (replace(OURS, root="/podthaw/store/tmp/x/pages//deleted"), True),
        (replace(OURS, flags=["rw"]), False),
        (replace(OURS, target="/elsewhere"), False),
        (replace(OURS, root="/data/my-pages"), False),
    ],
)
def test_which_mount_is_ours(mount: Mounted, *, ours: bool) -> None:
    assert pagesmount.is_ours(mount) is ours
    assert (pagesmount.of([replace(OURS, target="/x"), mount]) == mount) is ours


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Mounted]:
    """The mount as it is seen below this process's own root."""
    monkeypatch.setattr(pagesmount, "MOUNT_POINT", str(tmp_path / "pages"))
    return [replace(OURS, target=str(tmp_path / "pages"))]


def test_the_file_is_open_before_the_snapshot_goes(tmp_path: Path, listed: list[Mounted]) -> None:
    (tmp_path / "pages").write_bytes(b"memory")
    fd = pagesmount.open_pages(os.getpid(), listed)
    assert fd is not None
    (tmp_path / "pages").unlink()
    assert os.read(fd, 100) == b"memory"
    os.close(fd)
    assert pagesmount.open_pages(os.getpid(), mounts.read(os.getpid())) is None


def test_how_much_is_stored(tmp_path: Path, listed: list[Mounted]) -> None:
    with (tmp_path / "pages").open("wb") as file:
        file.truncate(1 << 30)
        file.write(b"x" * 8192)
        os.fsync(file.fileno())
    assert 8192 <= pagesmount.stored(os.getpid(), listed) < 1 << 20
    assert pagesmount.stored(os.getpid(), []) == 0


def test_what_is_no_file_is_not_read(tmp_path: Path, listed: list[Mounted]) -> None:
    with pytest.raises(Unfit, match="cannot be read: No such file"):
        pagesmount.open_pages(os.getpid(), listed)
    (tmp_path / "pages").mkdir()
    with pytest.raises(Unfit, match="is not a regular file"):
        pagesmount.open_pages(os.getpid(), listed)


def test_only_a_file_without_a_name_is_external_for_criu(
    tmp_path: Path, listed: list[Mounted]
) -> None:
    (tmp_path / "pages").write_bytes(b"memory")
    assert pagesmount.external_file(os.getpid(), listed) == []
    assert pagesmount.external_file(os.getpid(), []) == []
    with (tmp_path / "pages").open("rb") as file:
        inode = os.fstat(file.fileno()).st_ino
        (tmp_path / "pages").unlink()
        found = pagesmount._external_file(listed[0], os.fstat(file.fileno()))
    assert found == [f"file[4d:{inode:x}]"]
