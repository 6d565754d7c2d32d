from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from deploy import stage

PREFIX = "/opt/podthaw"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A staged tree without the dependencies."""
    cache = tmp_path / "cache"
    stage.cached_dependencies_folder(cache, "3.11").mkdir(parents=True)
    stage.stage(tmp_path / "tree", "3.11", prefix=PREFIX, cache=cache)
    return tmp_path / "tree"


def test_every_program_that_the_configuration_names_is_there(tree: Path) -> None:
    containerd = tomllib.loads((tree / "config/containerd.toml").read_text())
    runtimes = containerd["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]
    named = [runtime["options"]["BinaryName"] for runtime in runtimes.values()]
    assert len(named) == 2
    for program in named:
        assert os.access(tree / Path(program).relative_to(PREFIX), os.X_OK)


def test_no_file_names_another_place_than_the_prefix(tree: Path) -> None:
    assert {path.name for path in tree.iterdir()} == {"bin", "lib", "config", "nvidia"}
    for name in ("podthaw", "podthaw-runc"):
        assert f'"{PREFIX}/lib"' in (tree / "bin" / name).read_text()


def nvidia_runtime(tree: Path, path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The tree's Python is that of a node, which this machine need not have.
    command = ["python3", "-IS", str(tree / "bin/podthaw-nvidia-runtime"), *arguments]
    environment = {"PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


LOOK = """#!/bin/sh
echo "$@"
readlink -f "$(command -v runc)" "$(command -v crun)"
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_nvidias_runtime_finds_podthaw_runc_as_runc(tree: Path, tmp_path: Path) -> None:
    program(tmp_path / "nvidia-container-runtime", LOOK)
    done = nvidia_runtime(tree, tmp_path, "--root", "/r", "create", "--bundle", "/b", "c1")
    assert done.returncode == 0
    runc = str((tree / "bin/podthaw-runc").resolve())
    assert done.stdout.splitlines() == ["--root /r create --bundle /b c1", runc, runc]


def test_the_operators_script_finds_it_too(tree: Path, tmp_path: Path) -> None:
    toolkit = tmp_path / "toolkit"
    program(toolkit / "nvidia-container-runtime.real", LOOK)
    script = f"""#! /bin/sh
NVIDIA_CTK_CONFIG_FILE_PATH={toolkit}/.config/nvidia-container-runtime/config.toml \\
PATH={toolkit}:$PATH \\
\t{toolkit}/nvidia-container-runtime.real \\
\t\t"$@"
"""
    wrapped = program(toolkit / "nvidia-container-runtime", script)
    (tree / "nvidia/nvidia-container-runtime").symlink_to(wrapped)
    done = nvidia_runtime(tree, tmp_path, "create", "c1")
    assert done.returncode == 0
    runc = str((tree / "bin/podthaw-runc").resolve())
    assert done.stdout.splitlines() == ["create c1", runc, runc]


def test_without_nvidias_runtime_the_log_says_so(tree: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    options = ("--log", str(log), "--log-format", "json")
    done = nvidia_runtime(tree, tmp_path, *options, "create", "--bundle", "/b", "c1")
    assert done.returncode == 1
    (line,) = log.read_text().splitlines()
    told = json.loads(line)
    assert told["level"] == "error"
    assert told["msg"].startswith("no OCI runtime nvidia-container-runtime is on the PATH")
    assert told["msg"].endswith("install the NVIDIA Container Toolkit")
    assert "Traceback" not in done.stderr
