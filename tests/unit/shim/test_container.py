from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shim import container
from shim.errors import Refused, Unfit

ID = "ab" * 32


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks/k8s.io" / ID
    (folder / "rootfs").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"root": {"path": "rootfs"}}))
    (folder / "init.pid").write_text(str(os.getpid()))
    (folder / "options.json").write_text(json.dumps({"root": str(tmp_path / "runc")}))
    write_state(tmp_path)
    return folder


def write_state(tmp_path: Path, **changes: Any) -> None:
    state = {
        "init_process_pid": os.getpid(),
        "init_process_start": container.start_time(os.getpid()),
        "cgroup_paths": {"": "/u", "freezer": "/f", "cpu": "", "memory": "/m"},
        "external_descriptors": ["/dev/null", "pipe:[1]", "pipe:[2]"],
    } | changes
    folder = tmp_path / "runc/k8s.io" / ID
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps(state))


def test_a_running_container(bundle: Path) -> None:
    found = container.find(ID, bundle=bundle)
    assert found.pid == os.getpid()
    assert found.rootfs == bundle / "rootfs"
    assert found.freezer == Path("/f")
    assert found.cgroup_version == 1
    assert "cpu" not in found.cgroups
    assert found.descriptors == ("/dev/null", "pipe:[1]", "pipe:[2]")


def test_the_unified_hierarchy(bundle: Path, tmp_path: Path) -> None:
    write_state(tmp_path, cgroup_paths={"": "/u"})
    found = container.find(ID, bundle=bundle)
    assert (found.freezer, found.cgroup_version) == (Path("/u"), 2)
    write_state(tmp_path, cgroup_paths={})
    assert container.find(ID, bundle=bundle).freezer is None


def test_another_folder_for_runc_s_state(bundle: Path, tmp_path: Path) -> None:
    (bundle / "options.json").unlink()
    assert container.find(ID, bundle=bundle, runtime_root=tmp_path / "runc").pid == os.getpid()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "a" * 200])
def test_what_is_no_id(name: str) -> None:
    with pytest.raises(Refused, match="is not a container id"):
        container.find(name)


def test_what_does_not_run(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="is not running on this node"):
        container.find(ID, bundle=tmp_path / "absent")
    write_state(tmp_path, init_process_pid=1)
    with pytest.raises(Unfit, match="starting or stopping"):
        container.find(ID, bundle=bundle)
    write_state(tmp_path, init_process_start=1)
    with pytest.raises(Unfit, match="is gone"):
        container.find(ID, bundle=bundle)
    (tmp_path / "runc/k8s.io" / ID / "state.json").unlink()
    with pytest.raises(Unfit, match="only containers that runc runs"):
        container.find(ID, bundle=bundle)
    (bundle / "init.pid").unlink()
    with pytest.raises(Unfit, match="has not been started"):
        container.find(ID, bundle=bundle)


def test_the_start_time_of_a_zombie_is_none() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert container.start_time(process.pid) is None
    assert container.start_time(os.getpid()) is not None


def test_a_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = ["S", *["0"] * 18, "4242", "0"]
    (tmp_path / "7/stat").write_text("7 (a ) (b) Z) " + " ".join(fields) + "\n")
    assert container.start_time(7, tmp_path) == 4242


def test_the_bundle_beside_the_shim(bundle: Path) -> None:
    shim = subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], cwd=bundle, stdout=subprocess.PIPE, text=True
    )
    assert shim.stdout is not None
    child = int(shim.stdout.readline())
    assert container.bundle_of(child, ID) == bundle
    assert container.bundle_of(child, "other") is None
    os.kill(child, 9)
    shim.wait()
    shim.stdout.close()
    assert container.bundle_of(child, ID) is None
