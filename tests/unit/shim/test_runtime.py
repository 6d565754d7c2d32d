"""Which program is the runtime below, and that it is never this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shim import runtime

REPOSITORY = Path(__file__).parents[3]


def program(path: Path, text: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_node_link_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program(tmp_path / "bin/runc").parent))
    assert runtime.find(str(tmp_path)) == str(tmp_path / "bin/runc")
    (tmp_path / "runtime").symlink_to(program(tmp_path / "other/crun"))
    assert runtime.find(str(tmp_path)) == str(tmp_path / "runtime")


def test_a_named_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crun = program(tmp_path / "bin/crun")
    monkeypatch.setenv("PATH", str(crun.parent))
    assert runtime.find(str(tmp_path), "crun") == str(crun)
    assert runtime.find(str(tmp_path), str(crun)) == str(crun)
    with pytest.raises(runtime.NotFoundError, match="absent"):
        runtime.find(str(tmp_path), "absent")
    with pytest.raises(runtime.NotFoundError, match="/absent/x"):
        runtime.find(str(tmp_path), "/absent/x")


def test_this_program_is_never_its_own_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = program(tmp_path / "shim/runc")
    real = program(tmp_path / "real/runc")
    (tmp_path / "runtime").symlink_to(shim)
    monkeypatch.setattr(sys, "argv", [str(shim)])
    monkeypatch.setenv("PATH", f"{shim.parent}:{real.parent}")
    assert runtime.find(str(tmp_path)) == str(real)
    monkeypatch.setenv("PATH", str(shim.parent))
    with pytest.raises(runtime.NotFoundError, match="no OCI runtime runc"):
        runtime.find(str(tmp_path))


def launcher(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from shim.__main__ import main\nsys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


def test_a_loop_through_another_program_ends_with_a_sentence(tmp_path: Path) -> None:
    shim = launcher(tmp_path / "podthaw-runc")
    program(tmp_path / "bin/runc", f'exec {shim} "$@"')
    done = subprocess.run(
        [shim, "state", "x"],
        env={"PATH": f"{tmp_path}/bin:/bin:/usr/bin", "PODTHAW_RUN": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "calls podthaw-runc again" in done.stderr
    assert "Traceback" not in done.stderr
