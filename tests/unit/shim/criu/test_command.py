from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from shim.criu import command
from shim.external import External

ORDER = command.Dump(
    criu="/opt/criu",
    pid=4711,
    root=Path("/r"),
    images=Path("/i"),
    work=Path("/w"),
    external=[External(target="/proc/keys", name="/dev/null"), External(target="/d", name="/d")],
    others=["net[4026532281]:extRootNetNS"],
    freezer=Path("/sys/fs/cgroup/freezer/x"),
    leave_running=True,
    network_lock="nftables",
    script=Path("/w/action.sh"),
    freeze_timeout=10,
    ghost_limit=1 << 30,
)


def values(words: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(words) if name == option]


def test_a_dump() -> None:
    words = command.dump(ORDER)
    assert words[:4] == ["/opt/criu", "dump", "--tree", "4711"]
    assert values(words, "--images-dir") == ["/i"]
    assert values(words, "--work-dir") == ["/w"]
    assert values(words, "--root") == ["/r"]
    assert values(words, "--freeze-cgroup") == ["/sys/fs/cgroup/freezer/x"]
    assert values(words, "--network-lock") == ["nftables"]
    assert values(words, "--external") == [
        "net[4026532281]:extRootNetNS",
        "mnt[/proc/keys]:/dev/null",
        "mnt[/d]:/d",
    ]
    for option in ("--leave-running", "--tcp-established", "--file-locks", "--link-remap"):
        assert option in words
    assert "--force-irmap" not in words


def test_a_container_that_ends() -> None:
    words = command.dump(replace(ORDER, leave_running=False, freezer=None))
    assert "--leave-running" not in words
    assert "--freeze-cgroup" not in words


def test_watched_files() -> None:
    words = command.dump(replace(ORDER, watched=["/etc/app", "/data"]))
    assert "--force-irmap" in words
    assert values(words, "--irmap-scan-path") == ["/etc/app", "/data"]


@pytest.mark.parametrize(
    ("scripts", "method"),
    [
        ({"criu": "exit 0"}, "nftables"),
        ({"criu": "exit 1", "iptables": "exit 0"}, "iptables"),
        ({"criu": "exit 1", "iptables": "exit 3"}, "skip"),
        ({}, "skip"),
    ],
)
def test_how_connections_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str], method: str
) -> None:
    for name, body in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.network_lock("criu") == method
