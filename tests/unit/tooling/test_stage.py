from __future__ import annotations

import ast
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


@pytest.mark.parametrize(
    ("words", "journal", "asks"),
    [
        ("--root /r start c1", '{"locked": {}, "done": true}', False),
        ("start c1", '{"done": true}', False),
        ("start c1", '{"done": true, "locked": {"7": 1}}', True),
        ("start c1", '{"done": false}', True),
        ("start c1", '{"plan": "\\"done\\": true"}', True),
        ("start c1", None, True),
        ("start", '{"done": true}', True),
        ("start ../restores/c1", '{"done": true}', True),
        ("state c1", '{"done": true}', True),
        ("delete c1", '{"done": true}', True),
        ("--log start c1 create c2", '{"done": true}', True),
        ("", None, True),
    ],
)
def test_start_of_a_restored_container_needs_no_interpreter(
    tree: Path, tmp_path: Path, words: str, journal: str | None, *, asks: bool
) -> None:
    if journal is not None:
        (tmp_path / "run/restores").mkdir(parents=True)
        (tmp_path / "run/restores/c1").write_text(journal)
    python = program(tmp_path / "python3", '#!/bin/sh\necho "$@"\n')
    text = (tree / "bin/podthaw-runc").read_text().replace("/usr/bin/python3", str(python))
    launcher = program(tmp_path / "podthaw-runc", text)
    environment = {"PODTHAW_RUN": str(tmp_path / "run"), "journal": '"done": true'}
    done = subprocess.run(
        [launcher, *words.split()], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (f"-IS {launcher} {words}".rstrip() + "\n" if asks else "")


def test_start_of_another_container_is_the_runtimes(tree: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    python = program(tmp_path / "python3", '#!/bin/sh\necho python "$@"\n')
    text = (tree / "bin/podthaw-runc").read_text().replace("/usr/bin/python3", str(python))
    launcher = program(tmp_path / "podthaw-runc", text)
    below = program(tmp_path / "runc", '#!/bin/sh\necho runc $PODTHAW_RUNC_LEVEL "$@"\n')

    def said(*words: str, level: str = "") -> str:
        environment = {"PODTHAW_RUN": str(run), "PODTHAW_RUNC_LEVEL": level}
        command = [launcher, *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    by_python = f"python -IS {launcher} --root /r start c1"
    assert said("--root", "/r", "start", "c1") == by_python  # no daemon ever ran here
    (run / "runtime").symlink_to(below)
    assert said("--root", "/r", "start", "c1") == "runc 1 --root /r start c1"
    assert said("--root", "/r", "start", "c1", level="1") == by_python
    assert said("state", "c1") == f"python -IS {launcher} state c1"
    below.chmod(0o644)
    assert said("--root", "/r", "start", "c1") == by_python
    (run / "runtime").unlink()
    (run / "runtime").symlink_to(launcher)
    assert said("--root", "/r", "start", "c1") == by_python


def test_the_launcher_is_python_too(tree: Path) -> None:
    whole = ast.parse((tree / "bin/podthaw-runc").read_text())
    assert isinstance(whole.body[0], ast.Expr)
    assert ast.unparse(whole.body[-1]) == "leave(main())"
