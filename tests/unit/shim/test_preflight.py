"""Every check on a made-up picture; real processes are in tests/node/test_preflight.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shim import mounts, preflight
from shim.external import Sorted
from shim.finding import Finding
from shim.picture import Descriptor, Picture, Task

NAMESPACES = (
    ("pid", ""),
    ("network", "/proc/7/ns/net"),
    ("ipc", "/proc/7/ns/ipc"),
    ("uts", "/proc/7/ns/uts"),
    ("mount", ""),
    ("user", None),
    ("cgroup", None),
)
OVERLAY = mounts.parse("1 0 0:1 / /r rw - overlay overlay rw,upperdir=/u\n")[0]
INIT = Task(pid=100, inner=1, parent=50, name="server", namespaces=(("net", 4), ("mnt", 5)))
GOOD = Picture(
    init=100,
    tasks=(INIT,),
    namespaces=NAMESPACES,
    root_filesystem=OVERLAY,
    criu="4.2.1",
    free=1 << 40,
)


def with_task(**changes: Any) -> Picture:
    return replace(GOOD, tasks=(replace(INIT, **changes),))


def only(picture: Picture) -> Finding:
    (found,) = preflight.check(picture)
    assert found.what
    assert found.why
    assert found.remedy
    return found


def test_nothing_stands_in_the_way() -> None:
    assert preflight.check(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "check", "severity"),
    [
        ({"tracer": 9}, "traced", "fail"),
        ({"mappings": ("[uprobes]",)}, "uprobes", "fail"),
        ({"shared_code": "/dev/zero (deleted)"}, "shared-code", "fail"),
        ({"mappings": ("/anon_hugepage (deleted)",)}, "hugetlb", "warn"),
    ],
)
def test_processes(changes: dict[str, Any], check: str, severity: str) -> None:
    found = only(with_task(**changes))
    assert (found.check, found.severity) == (check, severity)


def test_limits_that_only_a_capability_shows() -> None:
    users = [
        replace(INIT, pid=pid, inner=pid - 99, hides_limits=pid > 100) for pid in (100, 101, 102)
    ]
    found = only(replace(GOOD, tasks=tuple(users)))
    assert (found.check, found.severity) == ("privilege", "warn")
    assert found.what == "process 2 (server)"
    assert "CAP_SYS_RESOURCE" in found.why
    assert "CAP_SYS_RESOURCE" in found.remedy


@pytest.mark.parametrize("state", ["Z", "T", "D"])
def test_zombies_and_stopped_processes_are_fine(state: str) -> None:
    child = Task(pid=101, inner=2, parent=100, name="child", state=state)
    assert preflight.check(replace(GOOD, tasks=(INIT, child))) == []


def test_namespaces_of_its_own() -> None:
    child = replace(INIT, pid=101, inner=8, parent=100, namespaces=(("net", 4), ("mnt", 6)))
    found = only(replace(GOOD, tasks=(INIT, child)))
    assert found.check == "nested-namespaces"
    assert "process 8" in found.what
    assert "mnt" in found.why
    assert "net," not in found.why


@pytest.mark.parametrize(
    ("kind", "path", "check", "severity"),
    [
        ("pid", "/proc/7/ns/pid", "pid-namespace", "fail"),
        ("pid", None, "pid-namespace", "fail"),
        ("user", "", "user-namespace", "fail"),
        ("user", "/proc/7/ns/user", "user-namespace", "fail"),
        ("cgroup", "/proc/7/ns/cgroup", "cgroup-namespace", "fail"),
        ("network", None, "host-network", "warn"),
        ("ipc", None, "host-ipc", "warn"),
    ],
)
def test_shared_namespaces(kind: str, path: str | None, check: str, severity: str) -> None:
    changed = tuple((name, path if name == kind else old) for name, old in NAMESPACES)
    found = only(replace(GOOD, namespaces=changed))
    assert (found.check, found.severity) == (check, severity)


def test_system_v_memory_is_saved_unless_it_is_the_nodes() -> None:
    picture = with_task(mappings=("/SYSV00000000 (deleted)",))
    assert preflight.check(picture) == []
    node = tuple((name, None if name == "ipc" else old) for name, old in NAMESPACES)
    found = preflight.check(replace(picture, namespaces=node))
    assert {one.check: one.severity for one in found} == {"sysv-shm": "fail", "host-ipc": "warn"}


def test_an_own_cgroup_namespace_is_fine() -> None:
    changed = tuple((name, "" if name == "cgroup" else old) for name, old in NAMESPACES)
    assert preflight.check(replace(GOOD, namespaces=changed)) == []


@pytest.mark.parametrize(
    ("changes", "check", "severity"),
    [
        ({"terminal": True}, "terminal", "fail"),
        ({"frozen": True}, "paused", "fail"),
        ({"mqueues": ("jobs",)}, "mqueue", "fail"),
        ({"criu": None}, "criu", "fail"),
        ({"criu": "3.17.1"}, "criu", "fail"),
        ({"tar": False}, "tar", "fail"),
        ({"free": 0, "files": 1}, "space", "fail"),
        ({"strangers": (replace(INIT, pid=300, inner=30),)}, "exec", "warn"),
        ({"root_filesystem": replace(OVERLAY, type="btrfs")}, "rootfs", "fail"),
        ({"root_filesystem": replace(OVERLAY, options=["rw"])}, "rootfs", "fail"),
    ],
)
def test_the_container_and_the_node(changes: dict[str, Any], check: str, severity: str) -> None:
    found = only(replace(GOOD, **changes))
    assert (found.check, found.severity) == (check, severity)


def test_space_counts_memory_and_files() -> None:
    picture = replace(with_task(dumpable=3 << 20), files=2 << 20, free=5 << 20)
    assert preflight.check(picture) == []
    found = only(replace(picture, free=(5 << 20) - 1))
    assert "about 5.0 MiB and 5.0 MiB are free" in found.why
    assert preflight.check(replace(picture, free=None)) == []


def test_mounts() -> None:
    volume, below, fuse, disk = mounts.parse(
        "9 1 8:1 / /data rw - ext4 /dev/vda rw\n"
        "10 9 0:9 / /data/below rw - nfs4 host:/x rw\n"
        "11 1 0:9 / /mnt/f rw - fuse.sshfs x rw\n"
        "12 1 8:9 / /mnt/d rw - xfs /dev/vdb rw\n"
    )
    sorted_mounts = Sorted(external=(), submounts=((below, volume),), unsupported=(fuse, disk))
    found = preflight.check(replace(GOOD, mounts=sorted_mounts))
    assert [finding.check for finding in found] == ["submount", "mount", "mount"]
    assert "/data/below" in found[0].what
    assert "/data" in found[0].why
    assert "FUSE" in found[1].why
    assert "xfs" in found[2].why


def test_failures_come_before_warnings() -> None:
    picture = replace(with_task(mappings=("/anon_hugepage",)), terminal=True, criu=None)
    severities = [finding.severity for finding in preflight.check(picture)]
    assert severities == ["fail", "fail", "warn"]


def test_a_finding_reads_as_a_sentence() -> None:
    found = Finding(check="x", severity="fail", what="the pod", why="it is odd", remedy="mend it")
    assert str(found) == "the pod: it is odd; mend it"


GPU = Descriptor(number=9, target="/dev/nvidia0", kind="char", device=(195, 0))


def test_a_process_that_uses_cuda() -> None:
    assert preflight.check(with_task(cuda="running", descriptors=(GPU,))) == []


def test_a_process_that_holds_a_gpu_without_cuda() -> None:
    found = only(with_task(descriptors=(GPU,)))
    assert (found.check, found.severity) == ("gpu", "fail")
    assert "without using CUDA" in found.why


def test_a_driver_that_cannot_be_asked() -> None:
    picture = replace(with_task(descriptors=(GPU, GPU)), gpu_problem="the driver is too old")
    found = only(picture)
    assert (found.check, found.severity) == ("gpu-driver", "fail")
    assert "the driver is too old" in found.why
    assert preflight.check(replace(GOOD, gpu_problem="the driver is too old")) == []


def test_a_process_that_is_already_locked() -> None:
    found = only(with_task(cuda="locked", descriptors=(GPU,)))
    assert (found.check, found.severity) == ("gpu-state", "fail")


def test_a_stopped_process_with_a_gpu() -> None:
    found = only(with_task(state="T", descriptors=(GPU,)))
    assert (found.check, found.severity) == ("gpu-stopped", "fail")


def test_gpu_memory_that_the_memory_limit_has_no_room_for() -> None:
    using = with_task(cuda="running", descriptors=(GPU,))
    assert preflight.check(replace(using, device_memory=5, memory_left=5)) == []
    assert preflight.check(replace(using, device_memory=5, memory_left=None)) == []
    found = only(replace(using, device_memory=5 << 30, memory_left=2 << 30))
    assert (found.check, found.severity) == ("gpu-memory", "fail")
    assert "5.0 GiB of GPU memory" in found.why
    assert "leaves 2.0 GiB" in found.why


def test_gpu_memory_takes_room_in_the_store() -> None:
    using = with_task(cuda="running", descriptors=(GPU,))
    assert preflight.check(replace(using, device_memory=99, free=100)) == []
    assert only(replace(using, device_memory=101, free=100)).check == "space"
