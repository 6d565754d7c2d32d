from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.guard import host

FREE = b"Name:\tx\nSeccomp:\t0\n"


@pytest.mark.parametrize("release", ["5.9.0", "5.10", "6.18.44-fc-v595", "10.0"])
def test_a_host_that_can(release: str) -> None:
    assert host.unsupported("x86_64", release, FREE) == ""


@pytest.mark.parametrize(
    ("machine", "release", "status", "found"),
    [
        ("aarch64", "6.1.0", FREE, "this host is aarch64"),
        ("x86_64", "5.8.18", FREE, "this host has 5.8.18"),
        ("x86_64", "4.18.0-553.el8", FREE, "this host has 4.18.0-553.el8"),
        ("x86_64", "odd", FREE, "this host has odd"),
        ("x86_64", "6.1.0", b"Name:\tx\nSeccomp:\t2\n", "this has one"),
    ],
)
def test_a_host_that_cannot(machine: str, release: str, status: bytes, found: str) -> None:
    assert host.unsupported(machine, release, status).endswith(found)


def test_this_host_is_read() -> None:
    name = os.uname()
    status = Path("/proc/self/status").read_bytes()
    assert host.reason() == host.unsupported(name.machine, name.release, status)
