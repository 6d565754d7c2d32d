"""What a restore imports: each module more is paid for by every start of a container."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SLOW = {
    "argparse",
    "ast",
    "asyncio",
    "dataclasses",
    "datetime",
    "difflib",
    "email",
    "hashlib",
    "inspect",
    "ipaddress",
    "logging",
    "pathlib",
    "pickle",
    "random",
    "shlex",
    "shutil",
    "socket",
    "ssl",
    "subprocess",
    "tarfile",
    "tempfile",
    "textwrap",
    "traceback",
    "typing",
    "unittest",
    "urllib",
}
"""Modules of the standard library that take long, alone or by what they import in turn."""


FEW = {"shim", "shim.__main__", "shim.argv", "shim.runlog", "shim.runtime"}


def imported(code: str) -> set[str]:
    """The modules that are there after the code, in an interpreter like podthaw-runc's."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\n"
    script += "import json; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-IS", "-c", script]
    found: list[str] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return set(found)


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import shim.__main__", FEW),
        ("import shim.__main__; from shim import restore", None),
        ("import shim.__main__; from shim import restore, tmpfs", None),
    ],
    ids=["any call", "create of a restored container", "with memory file systems"],
)
def test_only_what_is_needed(code: str, allowed: set[str] | None) -> None:
    found = imported(code)
    # Older releases of Python need more for what is allowed: the floor is not ours.
    floor = imported("import ctypes, fcntl, json, select, signal, contextlib, threading")
    floor |= imported("import _sha2") if sys.version_info >= (3, 12) else imported("import hashlib")
    assert sorted((found & SLOW) - floor) == []
    ours = {name for name in found if name.split(".")[0] in ("shim", "cri")}
    assert allowed is None or ours == allowed
    assert not any(name.startswith("cri") for name in ours)
