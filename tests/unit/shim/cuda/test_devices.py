from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cuda import devices
from shim.errors import Unfit


def spec(*paths: str, env: tuple[str, ...] = ()) -> dict[str, Any]:
    nodes = [{"path": path, "type": "c", "major": 195, "minor": 0} for path in paths]
    return {"linux": {"devices": nodes}, "process": {"env": list(env)}}


def node(path: str, minor: int, **more: Any) -> dict[str, Any]:
    return {"path": path, "type": "c", "major": 1, "minor": minor, **more}


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/dev/nvidia0", 0),
        ("/dev/nvidia15", 15),
        ("/dev/nvidiactl", None),
        ("/dev/nvidia-uvm", None),
        ("/dev/nvidia0/x", None),
        ("/dev/null", None),
        ("", None),
    ],
)
def test_the_number_of_a_gpu(path: str, number: int | None) -> None:
    assert devices.gpu_number(path) == number


def test_the_gpus_of_a_spec_are_in_order() -> None:
    paths = ("/dev/nvidia10", "/dev/nvidiactl", "/dev/nvidia2", "/dev/nvidia2", "/dev/null")
    assert devices.gpu_numbers(spec(*paths)) == [2, 10]


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_a_spec_of_another_shape_has_no_gpu(value: object) -> None:
    assert devices.gpu_numbers({"linux": value}) == []
    assert devices.gpu_numbers({"linux": {"devices": []}}) == []


@pytest.mark.parametrize(
    ("given_spec", "may"),
    [
        (spec(), False),
        ({}, False),
        (spec("/dev/null"), False),
        (spec("/dev/nvidiactl"), True),
        (spec(env=("NVIDIA_VISIBLE_DEVICES=all",)), True),
        (spec(env=("NVIDIA_VISIBLE_DEVICES=void",)), False),
        (spec(env=("NVIDIA_VISIBLE_DEVICES=",)), False),
        (spec(env=("PATH=/bin",)), False),
    ],
)
def test_what_may_have_a_gpu(given_spec: dict[str, Any], may: bool) -> None:  # noqa: FBT001
    assert devices.may_use_gpu(given_spec) is may


NODES = {"0": "GPU-a", "1": "GPU-b", "2": "GPU-c"}


class TestMap:
    def test_by_position(self) -> None:
        found = devices.gpu_map(["GPU-x", "GPU-y"], spec("/dev/nvidia2", "/dev/nvidia0"), NODES, {})
        assert found == {"GPU-x": "GPU-a", "GPU-y": "GPU-c"}

    def test_the_requests_own_map_of_the_same_gpus(self) -> None:
        wanted = {"GPU-x": "GPU-c", "GPU-y": "GPU-a"}
        both = spec("/dev/nvidia0", "/dev/nvidia2")
        assert devices.gpu_map(list(wanted), both, NODES, wanted) == wanted

    @pytest.mark.parametrize(
        "wanted", [{"GPU-x": ""}, {"GPU-x": "GPU-b"}, {"GPU-other": "GPU-a"}, {}]
    )
    def test_the_finished_spec_counts(self, wanted: dict[str, str]) -> None:
        found = devices.gpu_map(["GPU-x"], spec("/dev/nvidia0"), NODES, wanted)
        assert found == {"GPU-x": "GPU-a"}

    def test_too_few_or_too_many(self) -> None:
        with pytest.raises(Unfit, match="wants 2 GPUs, found 1"):
            devices.gpu_map(["GPU-x", "GPU-y"], spec("/dev/nvidia0"), NODES, {})
        with pytest.raises(Unfit, match="wants 1 GPU, found 0"):
            devices.gpu_map(["GPU-x"], spec("/dev/nvidiactl"), NODES, {})

    def test_a_gpu_that_this_host_does_not_know(self) -> None:
        with pytest.raises(Unfit, match="/dev/nvidia7"):
            devices.gpu_map(["GPU-x"], spec("/dev/nvidia7"), NODES, {})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system with a /dev; skips where device nodes cannot be made."""
    try:
        os.mknod(tmp_path / "probe", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    (tmp_path / "dev").mkdir()
    return tmp_path


def made(path: Path) -> tuple[int, int]:
    status = path.lstat()
    assert stat.S_ISCHR(status.st_mode)
    return os.major(status.st_rdev), os.minor(status.st_rdev)


class TestNodes:
    def test_they_are_made_and_those_of_other_gpus_removed(self, root: Path) -> None:
        os.mknod(root / "dev/nvidia0", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        wanted = [
            node("/dev/nvidia1", 5, fileMode=0o640, uid=7, gid=8),
            node("/dev/nvidiactl", 7),
            node("/dev/nvidia-caps/nvidia-cap2", 9),
            node("/dev/fuse", 3),
        ]
        changed = devices.place_nodes(str(root), {"linux": {"devices": wanted}})
        assert changed == [
            "/dev/nvidia1",
            "/dev/nvidiactl",
            "/dev/nvidia-caps/nvidia-cap2",
            "/dev/nvidia0",
        ]
        assert made(root / "dev/nvidia1") == (1, 5)
        assert made(root / "dev/nvidia-caps/nvidia-cap2") == (1, 9)
        assert made(root / "dev/null") == (1, 3)
        assert not (root / "dev/nvidia0").exists()
        assert not (root / "dev/fuse").exists()
        status = (root / "dev/nvidia1").stat()
        assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, 7, 8)

    def test_one_that_is_right_stays(self, root: Path) -> None:
        wanted = {"linux": {"devices": [node("/dev/nvidia1", 5)]}}
        devices.place_nodes(str(root), wanted)
        before = (root / "dev/nvidia1").stat()
        assert devices.place_nodes(str(root), wanted) == []
        assert (root / "dev/nvidia1").stat() == before

    def test_one_with_another_number_is_replaced(self, root: Path) -> None:
        os.mknod(root / "dev/nvidia1", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        devices.place_nodes(str(root), {"linux": {"devices": [node("/dev/nvidia1", 5)]}})
        assert made(root / "dev/nvidia1") == (1, 5)

    def test_no_link_of_the_container_is_followed(self, root: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (root / "dev/nvidia-caps").symlink_to(outside)
        wanted = {"linux": {"devices": [node("/dev/nvidia-caps/nvidia-cap2", 9)]}}
        with pytest.raises(Unfit, match="/dev/nvidia-caps/nvidia-cap2 cannot be made"):
            devices.place_nodes(str(root), wanted)
        assert list(outside.iterdir()) == []
        (root / "dev/nvidia1").symlink_to(outside / "target")
        devices.place_nodes(str(root), {"linux": {"devices": [node("/dev/nvidia1", 5)]}})
        assert made(root / "dev/nvidia1") == (1, 5)
        assert list(outside.iterdir()) == []

    def test_a_file_of_the_container_with_a_gpus_name_stays(self, root: Path) -> None:
        (root / "dev/nvidia3").write_text("mine")
        devices.place_nodes(str(root), {"linux": {"devices": []}})
        assert (root / "dev/nvidia3").read_text() == "mine"

    @pytest.mark.parametrize("path", ["/dev/nvidia/../../x", "/dev/nvidia0/../../../y"])
    def test_a_path_that_leads_out(self, root: Path, path: str) -> None:
        with pytest.raises(Unfit):
            devices.place_nodes(str(root), {"linux": {"devices": [node(path, 5)]}})

    def test_a_device_of_an_unknown_type(self, root: Path) -> None:
        wanted = [{**node("/dev/nvidia0", 5), "type": "q"}]
        with pytest.raises(Unfit, match="type 'q'"):
            devices.place_nodes(str(root), {"linux": {"devices": wanted}})
