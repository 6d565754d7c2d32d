"""The store survives ``kill -9`` and a failing disk at every single system call.

A child process works on a store with every system call of the os module counted; at the n-th it
kills itself, or the call fails. Then the store must be consistent, and a collection must clear it
up. n grows until the work gets through.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("crash_child.py")


@pytest.mark.parametrize("mode", ["kill", "fail"])
@pytest.mark.parametrize(
    "work", ["publish", "publish again", "repair", "name", "pin", "unpin", "remove", "gc"]
)
def test_consistent_after_every_call(tmp_path: Path, work: str, mode: str) -> None:
    # In memory where that can be had: thousands of syncs to a disk would take minutes.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(tmp_path)
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.unit.cri.store.crash_child", work, mode, folder],
            capture_output=True,
            text=True,
            check=False,
            cwd=CHILD.parents[4],
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    calls, stopped = map(int, done.stdout.split())
    # Each work makes several calls, and all but the last run were really stopped by one.
    assert calls >= 5
    assert stopped >= calls // 3
