from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cri.prepare import Policy, Target, prepare
from shim import plan
from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken, Unfit
from shim.hooks import Hook
from tests.unit.cri import snapshots
from tests.unit.shim.criu import test_tmpfs

PLAN = "ab" * 16
DIGEST = "sha256:" + "cd" * 32
TARGET = Target(
    namespace="default",
    pod="web-1",
    pod_uid="uid-1",
    sandbox_id="5" * 64,
    container="web",
    attempt=2,
    hostname="web-1",
    addresses=["", "10.88.0.9"],
)
POLICY = Policy(
    tcp="close", on_failure="cold", restore_timeout=5.0, runtime="/usr/bin/runc", criu="criu"
)


def prepared(
    folder: Path,
    files: dict[str, bytes] | None = None,
    target: Target = TARGET,
    policy: Policy = POLICY,
    **changes: Any,
) -> tuple[plan.Plan, Path, Any]:
    _, manifest = snapshots.write(folder / "snapshot", files, **changes)
    run = folder / "run"
    (run / "plans" / PLAN).mkdir(parents=True, mode=0o700)
    order, sockets = prepare(
        PLAN,
        target,
        policy,
        name="small",
        digest=DIGEST,
        folder=folder / "snapshot",
        manifest=manifest,
        run=run,
    )
    return order, run, sockets


def with_socket(address: str) -> dict[str, bytes]:
    """A dump with one listening socket on an IPv4 address."""
    number = int.from_bytes(bytes(int(part) for part in address.split(".")), "little")
    inet = snapshots.message(f3=2, f4=1, f5=6, f6=10, f7=80, f8=0, f11=number, f12=0)
    file = snapshots.message(f1=4, f2=20, f4=inet.encode())
    files = snapshots.default_files()
    files["images/files.img"] = snapshots.criu_image(images.FILES, file)
    return files


def test_the_plan_is_one_that_the_wrapper_reads(tmp_path: Path) -> None:
    order, run, _ = prepared(tmp_path)
    assert plan.read(PLAN, run, owner=os.getuid()) == order
    assert (order.snapshot, order.snapshot_dir) == (DIGEST, str(tmp_path / "snapshot"))
    assert (order.attempt, order.restore_timeout, order.runtime) == (2, 5.0, "/usr/bin/runc")
    assert order.rootfs_diff == str(tmp_path / "snapshot" / "rootfs.tar")


def test_the_hook_and_where_it_finds_the_pod(tmp_path: Path) -> None:
    order, _, _ = prepared(tmp_path / "none")
    assert (order.after_restore, order.address) == ("", "10.88.0.9")
    policy = replace(POLICY, after_restore=Hook("http", "8080/wake"))
    of_node = replace(TARGET, addresses=[""])
    order, _, _ = prepared(tmp_path / "hook", target=of_node, policy=policy)
    assert (order.after_restore, order.address) == ("http:8080/wake", "127.0.0.1")


def test_tars_that_the_snapshot_does_not_have_are_not_named(tmp_path: Path) -> None:
    files = snapshots.default_files()
    del files["rootfs.tar"]
    order, _, _ = prepared(tmp_path, {**files, "shm.tar": b"x"})
    assert order.rootfs_diff is None
    assert order.shm == str(tmp_path / "snapshot" / "shm.tar")


def test_memory_that_is_mapped_is_mounted(tmp_path: Path) -> None:
    sums = b""
    files = {"pages": b"", "pages.sums": sums, "memory.json": b"{}"}
    order, run, _ = prepared(tmp_path, snapshots.default_files() | files, memory="mapped")
    source = str(tmp_path / "snapshot" / "pages")
    assert order.pages_mount == {"source": source, "destination": "/.podthaw-pages"}
    assert plan.read(PLAN, run, owner=os.getuid()) == order
    assert prepared(tmp_path / "eager")[0].pages_mount is None


@pytest.mark.parametrize("image", ["ipcns-shm-11.img", "ipcns-sem-11.img", "ipcns-msg-11.img"])
def test_system_v_objects_take_an_ipc_namespace_of_their_own(tmp_path: Path, image: str) -> None:
    files = snapshots.default_files() | {"images/ipcns-var-11.img": b"sysctls"}
    assert not prepared(tmp_path / "without", files)[0].own_ipc
    files[f"images/{image}"] = b"objects"
    assert prepared(tmp_path / "with", files)[0].own_ipc


def test_sockets_move_to_the_address_of_this_pod(tmp_path: Path) -> None:
    order, _, sockets = prepared(tmp_path, with_socket("10.88.0.5"))
    made = Path(order.images) / "files.img"
    assert not made.is_symlink()
    assert made.stat().st_mode & 0o777 == 0o600
    (entry,) = images.decode(made.read_bytes(), "files.img").entries
    number = Message.parse(entry.message).message(4).uint(11)
    assert number.to_bytes(4, "little") == bytes([10, 88, 0, 9])
    assert (sockets.kept, sockets.moved) == (1, 1)


def test_a_pod_with_the_nodes_name_keeps_the_image_of_the_name(tmp_path: Path) -> None:
    order, _, _ = prepared(tmp_path, target=replace(TARGET, hostname=""))
    assert (Path(order.images) / "utsns-9.img").is_symlink()


def test_a_socket_without_a_place_in_this_pod_is_unfit(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="this pod has no IPv4 address"):
        prepared(tmp_path, with_socket("10.88.0.5"), target=replace(TARGET, addresses=["fd00::1"]))


@pytest.mark.parametrize("name", ["inventory.img", "pstree.img", "files.img"])
def test_a_snapshot_without_what_every_dump_has_is_broken(tmp_path: Path, name: str) -> None:
    files = snapshots.default_files()
    del files[f"images/{name}"]
    with pytest.raises(Broken, match=f"the snapshot has no {name}"):
        prepared(tmp_path, files)


def test_a_damaged_image_is_broken(tmp_path: Path) -> None:
    files = {**snapshots.default_files(), "images/files.img": b"no image"}
    with pytest.raises(Broken, match=r"files\.img is no CRIU image"):
        prepared(tmp_path, files)


def test_images_in_folders_are_broken(tmp_path: Path) -> None:
    files = {**snapshots.default_files(), "images/deep/x.img": b"x"}
    with pytest.raises(Broken, match=r"an image in a folder, deep/x\.img"):
        prepared(tmp_path, files)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"the run directory \S+ is full"),
        (errno.EROFS, "the plan cannot be written: .*criu.conf: Read-only file system"),
    ],
)
def test_a_plan_that_cannot_be_written_is_unfit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def refuse(path: Path, _: str) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(Unfit, match=message):
        prepared(tmp_path)


def test_small_memory_file_systems_are_the_wrapper_s_to_make(tmp_path: Path) -> None:
    files = snapshots.default_files()
    entry = snapshots.message(
        f1=5, f2=104, f3=68, f4=1, f5=0, f6=b"/", f7=b"/dev", f8=b"tmpfs", f9=b"mode=755"
    )
    mounts = snapshots.criu_image(images.MOUNTPOINTS, entry)
    files["images/mountpoints-13.img"] = mounts
    order, _, _ = prepared(tmp_path / "no content", files)
    assert order.tmpfs is None
    place = Path(order.images) / "mountpoints-13.img"
    assert place.is_symlink()
    files["images/tmpfs-dev-68.tar.gz.img"] = test_tmpfs.DEV
    order, _, _ = prepared(tmp_path / "users", {**files, "images/userns-14.img": b""})
    assert order.tmpfs is None
    order, run, _ = prepared(tmp_path, files)
    assert order.tmpfs == str(run / "plans" / PLAN / "tmpfs.json")
    (told,) = json.loads(Path(order.tmpfs).read_text())
    assert (told["key"], told["options"]) == ("podthaw-tmpfs-104", "mode=755")
    assert {"path": "fd", "target": "/proc/self/fd"}.items() <= told["entries"][3].items()
    place = Path(order.images) / "mountpoints-13.img"
    assert not place.is_symlink()
    assert b"podthaw-tmpfs-104" in place.read_bytes()
    assert (tmp_path / "snapshot/images/mountpoints-13.img").read_bytes() == mounts
    assert plan.read(PLAN, run, owner=os.getuid()) == order
