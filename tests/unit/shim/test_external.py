from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import external, mounts
from shim.external import External

SPEC = {
    "mounts": [
        {"destination": "/proc", "type": "proc"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup"},
        {"destination": "/etc/hosts", "type": "bind"},
        {"destination": "/var/run/secrets", "type": "bind"},
        {"destination": "/data", "type": "bind", "options": ["rbind"]},
    ],
    "linux": {
        "maskedPaths": ["/proc/keys", "/proc/acpi", "/proc/absent"],
        "devices": [{"path": "/dev/fuse", "type": "c"}],
    },
}
MOUNTINFO = """\
1 0 0:1 / / rw - overlay overlay rw,upperdir=/u
2 1 0:2 / /proc rw - proc proc rw
3 1 0:3 / /dev rw - tmpfs tmpfs rw
4 3 0:4 / /dev/pts rw - devpts devpts rw
5 1 0:5 / /sys/fs/cgroup rw - tmpfs tmpfs rw
6 5 0:6 /kubepods/a /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu
7 1 8:1 /hosts /etc/hosts rw - ext4 /dev/vda rw
8 1 0:8 / /run/secrets rw - tmpfs tmpfs rw
9 1 8:1 /data /data rw - ext4 /dev/vda rw
10 9 0:9 / /data/below rw - nfs4 host:/x rw
11 10 0:10 / /data/below/deeper rw - tmpfs tmpfs rw
12 2 0:3 /null /proc/keys rw - tmpfs tmpfs rw
13 2 0:11 / /proc/acpi ro - tmpfs tmpfs ro
14 1 0:12 / /mnt/fuse rw - fuse.sshfs sshfs rw
15 3 0:13 /fuse /dev/fuse rw - devtmpfs devtmpfs rw
16 3 0:13 /kvm /dev/kvm rw - devtmpfs devtmpfs rw
"""


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    return tmp_path


def test_each_mount_has_its_place(rootfs: Path) -> None:
    found = external.sort(SPEC, rootfs, mounts.parse(MOUNTINFO), masked_files=["/proc/keys"])
    assert found.external == (
        External(target="/sys/fs/cgroup/cpu", name="/sys/fs/cgroup/cpu"),
        External(target="/etc/hosts", name="/etc/hosts"),
        External(target="/run/secrets", name="/run/secrets"),
        External(target="/data", name="/data"),
        External(target="/proc/keys", name="/dev/null"),
        External(target="/dev/fuse", name="/dev/fuse"),
        External(target="/dev/kvm", name="/dev/kvm"),
    )
    assert [(inner.target, outer.target) for inner, outer in found.submounts] == [
        ("/data/below", "/data"),
        ("/data/below/deeper", "/data"),
    ]
    assert [mount.target for mount in found.unsupported] == ["/mnt/fuse"]


def test_the_mount_of_mapped_memory_is_given_back(rootfs: Path) -> None:
    line = "20 1 8:1 /store/ab/pages /.podthaw-pages {} - ext4 /dev/vda rw\n"
    text = MOUNTINFO + line.format("ro,nosuid,nodev")
    found = external.sort(SPEC, rootfs, mounts.parse(text), masked_files=[])
    wanted = External(target="/.podthaw-pages", name="/.podthaw-pages")
    assert wanted in found.external
    found = external.sort(
        SPEC, rootfs, mounts.parse(MOUNTINFO + line.format("rw")), masked_files=[]
    )
    assert "/.podthaw-pages" in {mount.target for mount in found.unsupported}


def test_cgroup_mounts_of_a_cgroup_namespace_are_rebuilt(rootfs: Path) -> None:
    spec = {**SPEC, "linux": {"namespaces": [{"type": "cgroup"}]}}
    found = external.sort(spec, rootfs, mounts.parse(MOUNTINFO), masked_files=[])
    assert "/sys/fs/cgroup/cpu" not in {mount.target for mount in found.external}


@pytest.mark.parametrize("namespaces", [[{"type": "cgroup"}], []], ids=["own", "the node's"])
def test_the_hierarchy_of_v2_is_rebuilt(rootfs: Path, namespaces: list[dict[str, str]]) -> None:
    """A mount of cgroup v2 is none that runc names, with or without a cgroup namespace."""
    spec = {**SPEC, "linux": {"namespaces": namespaces}}
    root = "/" if not namespaces else "/kubepods/a"
    line = f"2 1 0:6 {root} /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    first = "1 0 0:1 / / rw - overlay overlay rw\n"
    found = external.sort(spec, rootfs, mounts.parse(first + line), masked_files=[])
    assert "/sys/fs/cgroup" not in {mount.target for mount in found.external}
    assert found.unsupported == ()


def test_mount_points_follow_links(rootfs: Path) -> None:
    assert external.mount_points(SPEC, rootfs)[3] == "/run/secrets"


@pytest.mark.parametrize(
    ("link", "path", "leads"),
    [
        ("/etc", "link/hosts", "/etc/hosts"),
        ("../../../etc", "link/passwd", "/etc/passwd"),
        ("link", "link/x", "/link/x"),
        ("a/b", "link/../c", "/a/c"),
        (".", "link/link/x", "/x"),
    ],
)
def test_links_never_leave_the_root(tmp_path: Path, link: str, path: str, leads: str) -> None:
    (tmp_path / "link").symlink_to(link)
    assert external.secure_join(tmp_path, path) == leads


@given(st.lists(st.sampled_from(["..", ".", "a", "link", "", "b"]), max_size=8))
def test_a_joined_path_is_normal_and_absolute(parts: list[str]) -> None:
    joined = external.secure_join(Path("/proc/self/fdinfo"), "/".join(parts))
    assert joined.startswith("/")
    assert joined == os.path.normpath(joined)
    assert ".." not in joined.split("/")


def test_masked_files(tmp_path: Path) -> None:
    (tmp_path / "proc/acpi").mkdir(parents=True)
    (tmp_path / "proc/keys").write_text("")
    assert external.masked_files(SPEC, tmp_path) == ["/proc/keys"]
