from __future__ import annotations

import json
from pathlib import Path

from tests.gpu import cases, cdi, pack, report


def test_a_specification_has_every_gpu_by_number_and_all(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-modeset"):
        (tmp_path / name).touch()
    found = cdi.specification(tmp_path, hook=tmp_path / "absent")
    nodes = {
        device["name"]: [node["path"] for node in device["containerEdits"]["deviceNodes"]]
        for device in found["devices"]
    }
    first, second = f"{tmp_path}/nvidia0", f"{tmp_path}/nvidia10"
    assert nodes == {"0": [first], "10": [second], "all": [first, second]}
    control = [node["path"] for node in found["containerEdits"]["deviceNodes"]]
    assert control == [f"{tmp_path}/nvidiactl", f"{tmp_path}/nvidia-uvm"]
    assert "hooks" not in found["containerEdits"]


def test_a_specification_has_nvidias_hooks_where_its_program_is(tmp_path: Path) -> None:
    (tmp_path / "nvidia-cdi-hook").touch()
    edits = cdi.specification(tmp_path, hook=tmp_path / "nvidia-cdi-hook")["containerEdits"]
    assert edits["hooks"][0] == {
        "hookName": "createContainer",
        "path": f"{tmp_path}/nvidia-cdi-hook",
        "args": ["nvidia-cdi-hook", "disable-device-node-modification"],
    }


def test_what_no_node_runs_is_not_carried_along() -> None:
    for name in (
        "usr/bin/containerd",
        "usr/sbin/criu",
        "usr/lib/cni/bridge",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/share/ca-certificates/x",
        "var/lib",
    ):
        assert pack.wanted(name), name
    for name in (
        "usr/bin/perl5.42",
        "usr/lib/cni/dhcp",
        "usr/lib/python3.14/__pycache__/x.pyc",
        "usr/share/doc/criu/copyright",
        "dev/null",
    ):
        assert not pack.wanted(name), name


def test_a_gpu_is_named_to_nvidias_runtime_by_its_variable() -> None:
    by_name = {case.name: case for case in cases.CASES}
    assert len(by_name) == len(cases.CASES)
    through = by_name["nvidia-handler"].program("/python", ["/usr"], cases.GPU)
    assert through.env["NVIDIA_VISIBLE_DEVICES"] == "nvidia.com/gpu=0"
    assert not through.devices
    direct = by_name["driver"].program("/python", ["/usr"], cases.GPU)
    assert direct.devices == cases.GPU
    assert direct.command == ["/python", "-B", "-u", "/programs/driver.py", "1024"]


def test_the_report_compares_each_size_with_the_stock_way(tmp_path: Path) -> None:
    phases = {"check": 0.1, "rootfs": 0.1, "criu": 1.0, "cuda": 2.0}
    told = {"cuda_checkpoint": 1.0, "memory": 2.0, "cuda_resume": 3.0}

    def way(first: float) -> dict[str, object]:
        restore = {"start": first + 0.1, "first": first, "phases": phases}
        capture = {"size": 2e9, "phases": told, "still": 6.0, "seconds": 9.0}
        return {"capture": capture, "restores": [restore], "first": first}

    results = {
        "facts": {
            "date": "2026-11-24",
            "gpu": "NVIDIA X, 580.1, 1000 MiB, GPU-1",
            "cpus": "4",
            "kernel": "6.1",
            "criu": "Version: 4.2",
            "fresh_memory": "2.0 GB/s",
            "disk": "1.0 GB/s written",
        },
        "runs": [],
        "figures": [
            {
                "mib": 2048,
                "cold": 9.0,
                "in_place": {"first": 2.0},
                "podthaw": way(3.0),
                "stock": way(12.0),
                "times_faster": 4.0,
            }
        ],
    }
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    text = report.report([file])
    assert "NVIDIA X (1000 MiB), driver 580.1, 4 processors" in text
    assert "| 2 GiB | 9.00 s | 12.00 s | 3.00 s | 4.0 times | 2.00 s | 2.80 s |" in text
    assert "| 2 GiB | Podthaw | 0.10 | 0.10 | 1.00 | 2.00 | -0.10 | 3.10 |" in text
    assert "| 2 GiB | 2.0 GB | 1.00 | 2.00 | 3.00 | 6.0 s | 9.0 s |" in text
