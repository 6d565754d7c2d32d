from __future__ import annotations

import configparser
import os
import socket
from pathlib import Path

import pytest

from cri import systemd
from cri.config import Settings
from shim.errors import Refused

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_without_systemd_nothing_is_inherited() -> None:
    assert systemd.inherited_listener({}) is None
    assert systemd.inherited_listener({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None


@pytest.mark.parametrize("count", ["0", "2", "x"])
def test_a_wrong_number_of_sockets_is_refused(count: str) -> None:
    with pytest.raises(Refused, match="wanted 1"):
        systemd.inherited_listener({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def test_notify_reaches_path_and_abstract_sockets(tmp_path: Path) -> None:
    for address, name in ((str(tmp_path / "n"),) * 2, ("\0podthaw-test", "@podthaw-test")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address)
            manager.settimeout(5)
            systemd.notify("READY=1", {"NOTIFY_SOCKET": name})
            assert manager.recv(100) == b"READY=1"
    systemd.notify("READY=1", {})
    systemd.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_a_manager_that_does_not_read_stops_nobody(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        for _ in range(2000):  # more than any queue takes
            systemd.notify("WATCHDOG=1", {"NOTIFY_SOCKET": str(tmp_path / "n")})


def test_watchdog_interval_is_half_of_what_is_allowed() -> None:
    assert systemd.watchdog_interval({}) is None
    assert systemd.watchdog_interval({"WATCHDOG_USEC": "30000000"}) == 15
    assert systemd.watchdog_interval({"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}) is None


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / name)
    return parser


def test_the_units_agree_with_the_defaults() -> None:
    service, sock = unit("podthaw.service"), unit("podthaw.socket")
    defaults = Settings(containerd="/c")
    assert sock["Socket"]["ListenStream"] == defaults.socket
    assert sock["Socket"]["SocketMode"] == "0600"
    assert f"/run/{service['Service']['RuntimeDirectory']}" == str(defaults.run)
    assert f"/var/lib/{service['Service']['StateDirectory']}" == str(defaults.state)
    assert service["Service"]["RuntimeDirectoryPreserve"] == "yes"
    assert float(service["Service"]["TimeoutStopSec"].removesuffix("s")) > defaults.stop_timeout
    assert "kubelet.service" in service["Unit"]["Before"]


def test_the_service_runs_without_seccomp_and_mount_namespace() -> None:
    """CRIU, which the service starts, can work under neither."""
    seccomp = ("SystemCall", "Restrict", "Lock", "MemoryDeny")
    mounts = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "Temporary", "Bind")
    for key in unit("podthaw.service")["Service"]:
        assert not key.startswith((*seccomp, *mounts)), key
