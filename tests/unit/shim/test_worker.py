"""The steps of a restore by themselves; as a whole they are tested in test_restore.py."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from shim import plan, snapshot, worker
from shim.errors import Broken, Refused, Unfit
from shim.journal import Journal


def mount(
    destination: str, kind: str = "dir", type_: str = "bind", flags: tuple[str, ...] = ()
) -> snapshot.Mount:
    return snapshot.Mount(destination=destination, type=type_, kind=kind, flags=list(flags))


def manifest(*mounts: snapshot.Mount) -> snapshot.Manifest:
    source = snapshot.Source(
        namespace="n", pod="p", pod_uid="u", container="c", container_id="i", image="m",
        image_digest="sha256:1", command=[],
    )  # fmt: skip
    needs = snapshot.HostNeeds(
        arch="x", kernel="k", criu="4", cpu_features=[], page_size=4096, cgroup=2
    )
    return snapshot.Manifest(
        created="", source=source, host=needs, security={}, mounts=list(mounts), processes=[],
        addresses=[], hostname="", stdio=[], artifacts=[],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([], "no mount at /data"),
        ([mount("/data", type_="tmpfs")], "type bind in the snapshot and tmpfs"),
        ([mount("/data", kind="file")], "dir in the snapshot and a file"),
        ([mount("/data", flags=("ro",))], "is rw in the snapshot and ro in this container"),
        ([mount("/data", flags=("rslave",))], "is rw in the snapshot and rw,rslave in this"),
        ([mount("/data"), mount("/more")], "has a mount at /more, the snapshot has none"),
    ],
)
def test_mounts_that_differ(found: list[snapshot.Mount], reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        worker._check_mounts(manifest(mount("/data")), found)


def test_mounts_that_fit() -> None:
    worker._check_mounts(manifest(mount("/a"), mount("/b")), [mount("/b"), mount("/a")])
    worker._check_mounts(manifest(mount("/data", kind="")), [mount("/data", kind="file")])
    worker._check_mounts(manifest(), [])


def order(**more: Any) -> plan.Plan:
    fields = {
        "id": "0" * 32, "created": 0.0, "namespace": "n", "pod": "p", "pod_uid": "u",
        "sandbox_id": "s", "container": "c", "attempt": 0, "name": "x", "snapshot": "sha256:1",
        "snapshot_dir": "/s", "images": "/i",
    }  # fmt: skip
    return plan.Plan(**{**fields, **more})


def test_criu_of_the_plan_comes_first_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert worker._environment(order())["PATH"] == "/usr/bin"
    assert worker._environment(order(criu="/opt/criu/criu"))["PATH"] == "/opt/criu:/usr/bin"


def record(tmp_path: Path) -> Journal:
    return Journal(
        container="c", plan="0" * 32, root="/r", bundle=str(tmp_path), runtime="/runc",
        global_options=[], cgroups=[], rootfs_path=str(tmp_path), path=str(tmp_path / "journal"),
    )  # fmt: skip


def test_every_end_has_a_kind_and_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "plans" / ("0" * 32)).mkdir(parents=True)
    journal, run = record(tmp_path), str(tmp_path)
    broken = Broken("it broke", detail="one\ntwo")
    assert worker.describe(broken, journal, run) == ("broken", "it broke", ["one", "two"])
    assert worker.describe(Refused("no"), journal, run) == ("refused", "no", [])
    kind, reason, _ = worker.describe(worker.InterruptedRestoreError(), journal, run)
    assert (kind, "cancelled" in reason) == ("unfit", True)
    kind, reason, tail = worker.describe(KeyError("odd"), journal, run)
    assert (kind, reason, tail) == ("unfit", "podthaw-runc failed: KeyError: 'odd'", [])
    assert "KeyError" in (tmp_path / "plans" / ("0" * 32) / "error.txt").read_text()


def test_a_parent_that_is_gone_interrupts() -> None:
    worker.check_parent(os.getppid())
    with pytest.raises(worker.InterruptedRestoreError):
        worker.check_parent(os.getpid())


def test_signals_interrupt_until_they_are_ignored() -> None:
    before = {number: signal.getsignal(number) for number in worker.Signals._NUMBERS}
    try:
        signals = worker.Signals()
        with pytest.raises(worker.InterruptedRestoreError):
            os.kill(os.getpid(), signal.SIGTERM)
        signals.ignore()
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_labels_are_those_of_the_request(tmp_path: Path) -> None:
    """CRIU would label the processes, and mount, as the captured pod's categories say."""
    journal = record(tmp_path)
    asked = {
        "process": {"selinuxLabel": "system_u:system_r:container_t:s0:c8,c9"},
        "linux": {"mountLabel": "system_u:object_r:container_file_t:s0:c8,c9"},
    }
    words = worker._arguments(journal, order(), str(tmp_path), asked)
    assert words[-5:] == [
        "--lsm-profile", "selinux:system_u:system_r:container_t:s0:c8,c9",
        "--lsm-mount-context", "system_u:object_r:container_file_t:s0:c8,c9", "c",
    ]  # fmt: skip
    assert "--lsm-profile" not in worker._arguments(
        journal, order(), str(tmp_path), {"process": {}}
    )
