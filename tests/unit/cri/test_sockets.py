from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from cri.sockets import answers, listen
from shim.errors import Refused


def test_a_socket_is_private_and_listens(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with listen(tmp_path / "new/a.sock"):
            path = tmp_path / "new/a.sock"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert answers(path)
            assert os.listdir(path.parent) == ["a.sock"]  # noqa: PTH208
    finally:
        os.umask(old)
    assert not answers(tmp_path / "new/a.sock")


def test_a_stale_socket_is_replaced_a_served_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    listen(path).close()
    with listen(path), pytest.raises(Refused, match="another process serves it"):
        listen(path)


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(Refused, match="something else than a socket"):
        listen(path)
    assert path.read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=f"socket {tmp_path}/file/a.sock cannot be made"):
        listen(tmp_path / "file/a.sock")


def test_only_root_may_connect(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    tmp_path.chmod(0o755)
    with listen(tmp_path / "a.sock"):
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            os.chdir(tmp_path) if os.access(tmp_path, os.X_OK) else None
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(str(tmp_path / "a.sock"))
                except PermissionError:
                    os._exit(13)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 13
