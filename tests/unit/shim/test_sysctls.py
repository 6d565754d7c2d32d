from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim import sysctls
from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken, Unfit

IPC_VAR = 0x53115007
VALUES = {1: [250, 32000, 32, 128], 2: [8192], 3: [16384], 6: [(1 << 64) - 1], 9: [0], 15: [7]}


def image(magic: int, message: Message) -> bytes:
    header = struct.pack("<II", images.COMMON_MAGIC, magic)
    return images.encode(images.Image(header, magic, [images.Entry(message.encode())]))


def ipc_image() -> bytes:
    message = Message()
    for field, values in VALUES.items():
        message.set_uints(field, values)
    return image(IPC_VAR, message)


def uts_image() -> bytes:
    message = Message()
    message.set_bytes(1, b"web-0")
    message.set_bytes(2, b"old.test")
    return image(images.UTSNS, message)


def entry(path: Path) -> Message:
    return Message.parse(images.decode(path.read_bytes(), path.name).entries[0].message)


@pytest.fixture
def pod() -> Iterator[int]:
    """A process in IPC and UTS namespaces with settings of their own."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    script = """
        echo 4321 > /proc/sys/kernel/msgmax; echo '11 222 33 44' > /proc/sys/kernel/sem
        echo 1 > /proc/sys/kernel/shm_rmid_forced; echo pod.test > /proc/sys/kernel/domainname
        echo done; exec sleep 60
    """
    with subprocess.Popen(
        ["unshare", "--ipc", "--uts", "sh", "-c", script], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"done\n"
            yield process.pid
        finally:
            process.kill()


def spec(pid: int) -> dict[str, Any]:
    namespaces = [{"type": kind, "path": f"/proc/{pid}/ns/{kind}"} for kind in ("ipc", "uts")]
    return {"linux": {"namespaces": namespaces}}


def test_images_say_what_the_pod_has_and_the_store_is_not_touched(tmp_path: Path, pod: int) -> None:
    store, folder = tmp_path / "store", tmp_path / "images"
    store.mkdir()
    folder.mkdir()
    for name, data in (("ipcns-var-10.img", ipc_image()), ("utsns-9.img", uts_image())):
        (store / name).write_bytes(data)
        (folder / name).symlink_to(store / name)
    (folder / "ipcns-sem-10.img").write_bytes(b"not looked at")
    sysctls.keep(str(folder), spec(pod))
    found = entry(folder / "ipcns-var-10.img")
    assert [found.uints(field) for field in (1, 2, 9)] == [[11, 222, 33, 44], [4321], [1]]
    assert found.uint(15) == 7
    assert 4 not in found
    assert entry(folder / "utsns-9.img").blob(1) == b"web-0"
    assert entry(folder / "utsns-9.img").blob(2) == b"pod.test"
    assert (store / "ipcns-var-10.img").read_bytes() == ipc_image()
    assert (store / "utsns-9.img").read_bytes() == uts_image()
    assert sorted(path.name for path in folder.iterdir()) == [
        "ipcns-sem-10.img", "ipcns-var-10.img", "utsns-9.img",
    ]  # fmt: skip


def test_a_namespace_of_the_containers_own_is_the_snapshots(tmp_path: Path) -> None:
    (tmp_path / "utsns-9.img").write_bytes(uts_image())
    sysctls.keep(str(tmp_path), {"linux": {"namespaces": [{"type": "uts"}]}})
    sysctls.keep(str(tmp_path), {})
    assert (tmp_path / "utsns-9.img").read_bytes() == uts_image()


def test_a_namespace_that_is_gone_is_unfit(tmp_path: Path) -> None:
    (tmp_path / "utsns-9.img").write_bytes(uts_image())
    gone = {"linux": {"namespaces": [{"type": "uts", "path": "/proc/0/ns/uts"}]}}
    with pytest.raises(Unfit, match="uts namespace cannot be kept: No such file"):
        sysctls.keep(str(tmp_path), gone)


@pytest.mark.parametrize("data", [b"", ipc_image()[:-3], ipc_image() * 2])
def test_a_damaged_image_is_broken(data: bytes) -> None:
    with pytest.raises(Broken):
        sysctls.rewritten(data, lambda _: None, "ipcns-var-1.img")


def test_two_entries_are_one_too_many() -> None:
    data = ipc_image()
    with pytest.raises(Broken, match="should hold one entry, found 2"):
        sysctls.rewritten(data + data[8:], lambda _: None, "ipcns-var-1.img")
