"""Where a container's control groups are, and ending what is in them."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from shim import cgroups, mounts
from shim.errors import Unfit

V1 = mounts.parse(
    "1 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "2 0 0:2 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "3 0 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    "4 0 0:4 / /proc rw - proc proc rw\n"
)


def spec(path: object) -> dict[str, object]:
    return {"linux": {"cgroupsPath": path}}


def test_every_hierarchy() -> None:
    assert cgroups.directories(spec("/kubepods/podx/c1"), "c1", V1, systemd=False) == [
        "/sys/fs/cgroup/memory/kubepods/podx/c1",
        "/sys/fs/cgroup/cpu/kubepods/podx/c1",
        "/sys/fs/cgroup/unified/kubepods/podx/c1",
    ]


def test_the_only_hierarchy_of_v2() -> None:
    v2 = mounts.parse("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n")
    found = cgroups.directories(spec("/kubepods/podx/c1"), "c1", v2, systemd=False)
    assert found == ["/sys/fs/cgroup/kubepods/podx/c1"]
    path = "kubepods-besteffort.slice:cri-containerd:c1"
    assert cgroups.directories(spec(path), "c1", v2, systemd=True) == [
        "/sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/cri-containerd-c1.scope"
    ]


def test_systemd() -> None:
    path = "kubepods-burstable-pod1.slice:cri-containerd:c1"
    found = cgroups.directories(spec(path), "c1", V1[2:3], systemd=True)
    slices = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
    assert found == [f"/sys/fs/cgroup/unified/{slices}/cri-containerd-c1.scope"]


def test_a_runtime_that_lacks_the_option_for_systemd_is_told() -> None:
    path = "kubepods-burstable-pod1.slice:cri-containerd:c1"
    with pytest.raises(Unfit, match="add SystemdCgroup = true"):
        cgroups.directories(spec(path), "c1", V1, systemd=False)


@pytest.mark.parametrize("path", ["", None, "/", "/kubepods/other", "c1", "/a/../c1", "/c1/x"])
def test_a_group_that_is_not_the_containers_own_is_refused(path: object) -> None:
    with pytest.raises(Unfit, match="group of its own"):
        cgroups.directories(spec(path), "c1", V1, systemd=False)


def test_processes_of_folders_below_are_found(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/cgroup.procs").write_text("10\n0\n")
    (tmp_path / "a/b/cgroup.procs").write_text("11\n")
    assert cgroups.processes([str(tmp_path / "a"), str(tmp_path / "absent")]) == {10, 11}


def test_everything_in_the_groups_is_killed_and_the_groups_removed(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    group = tmp_path / "c1"
    group.mkdir()
    listed = group / "cgroup.procs"
    listed.write_text(f"{child.pid}\n")

    def kernel() -> None:  # a process that has ended leaves its group
        child.wait()
        listed.unlink()

    watcher = threading.Thread(target=kernel)
    watcher.start()
    cgroups.kill([str(group)], timeout=10)
    watcher.join()
    assert child.returncode == -9
    cgroups.remove([str(group)])
    assert not group.exists()


def test_v2_is_killed_as_a_whole_and_thawed(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    listed = tmp_path / "cgroup.procs"
    listed.write_text(f"{child.pid}\n")
    for name, text in (("cgroup.kill", ""), ("cgroup.freeze", "1")):
        (tmp_path / name).write_text(text)

    def kernel() -> None:
        child.wait()
        time.sleep(0.1)
        listed.write_text("")

    watcher = threading.Thread(target=kernel)
    watcher.start()
    cgroups.kill([str(tmp_path)])
    watcher.join()
    assert (tmp_path / "cgroup.kill").read_text() == "1"
    assert (tmp_path / "cgroup.freeze").read_text() == "0"


def test_this_process_is_never_killed(tmp_path: Path) -> None:
    """The kernel would take it along with the rest of the group."""
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "cgroup.kill").write_text("")
    cgroups.kill([str(tmp_path)])
    assert (tmp_path / "cgroup.kill").read_text() == ""


def test_a_process_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "cgroup.procs").write_text(f"{gone.pid}\n")
    begun = time.monotonic()
    with pytest.raises(OSError, match="do not end"):
        cgroups.kill([str(tmp_path)], timeout=0.2)
    assert time.monotonic() - begun < 5
