from __future__ import annotations

import pytest

from shim import ipc


@pytest.mark.parametrize("name", ["ipcns-shm-9.img", "ipcns-sem-10.img", "ipcns-msg-1.img"])
def test_objects_are_known_by_the_files_of_the_dump(name: str) -> None:
    others = ["inventory.img", "ipcns-var-9.img", "pagemap-shmem-9.img", "utsns-9.img"]
    assert not ipc.has_objects(others)
    assert ipc.has_objects([*others, name])


def test_only_the_ipc_namespace_becomes_the_containers_own() -> None:
    network = {"type": "network", "path": "/proc/1/ns/net"}
    spec = {
        "root": {"path": "rootfs"},
        "linux": {
            "cgroupsPath": "/a",
            "namespaces": [network, {"type": "ipc", "path": "/proc/1/ns/ipc"}, {"type": "pid"}],
        },
    }
    changed = ipc.with_own_namespace(spec)
    assert changed["linux"]["namespaces"] == [network, {"type": "ipc"}, {"type": "pid"}]
    assert changed["linux"]["cgroupsPath"] == "/a"
    assert changed["root"] == spec["root"]
    assert spec["linux"]["namespaces"][1]["path"]  # type: ignore[index]
