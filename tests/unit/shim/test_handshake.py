from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

from shim.handshake import Handshake


@pytest.fixture
def made(tmp_path: Path) -> Handshake:
    return Handshake(tmp_path / "it's a script.sh", tmp_path / "s")


def run(made: Handshake, action: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(made.script)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "CRTOOLS_SCRIPT_ACTION": action},
    )


def asked(made: Handshake) -> bool:
    return bool(select.select([made], [], [], 10)[0])


@pytest.mark.parametrize("action", ["pre-dump", "network-lock", "status-ready", ""])
def test_other_stages_pass(made: Handshake, action: str) -> None:
    with made:
        assert run(made, action).wait() == 0


def test_a_good_answer(made: Handshake) -> None:
    with made:
        script = run(made, "post-dump")
        assert asked(made)
        made.accept()
        assert script.poll() is None
        made.answer()
        assert script.wait() == 0
    assert not made.address.exists()


def test_a_refusal(made: Handshake) -> None:
    with made:
        script = run(made, "post-dump")
        assert asked(made)
        made.accept()
        made.refuse()
        assert script.wait() == 1


def test_a_capture_that_is_gone(made: Handshake) -> None:
    with made:
        pass
    assert run(made, "post-dump").wait() == 1


def test_a_script_that_is_gone_is_no_error(made: Handshake) -> None:
    with made:
        script = run(made, "post-dump")
        assert asked(made)
        made.accept()
        script.kill()
        script.wait()
        made.answer()


def test_only_root_may_answer(made: Handshake) -> None:
    with made:
        assert made.address.stat().st_mode & 0o777 == 0o600
        assert made.script.stat().st_mode & 0o777 == 0o700
