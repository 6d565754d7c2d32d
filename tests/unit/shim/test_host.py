from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from shim import host
from shim.errors import Unfit


def program(folder: Path, text: str) -> str:
    path = folder / "criu"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_facts_of_this_host(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    found = host.facts(program(tmp_path, 'echo "Version: 4.2.1"; echo "GitID: x"'), cgroup=tmp_path)
    assert found.arch == platform.machine()
    assert found.kernel == platform.release()
    assert found.criu == "4.2.1"
    assert found.page_size == os.sysconf("SC_PAGE_SIZE")
    assert found.cgroup == 2


def test_only_features_of_every_processor_count() -> None:
    text = "processor : 0\nflags\t\t: fpu sse2 avx\n\nprocessor : 1\nflags\t\t: sse2 fpu\n"
    assert host.cpu_features(text) == ["fpu", "sse2"]


def test_arm_calls_them_features() -> None:
    assert host.cpu_features("Features\t: fp asimd\n") == ["asimd", "fp"]


def test_a_cpuinfo_without_any_has_none() -> None:
    assert host.cpu_features("model name : x\n") == []


def test_no_unified_hierarchy_is_version_1(tmp_path: Path) -> None:
    assert host.cgroup_version(tmp_path) == 1


def test_criu_that_is_not_there_is_unfit() -> None:
    with pytest.raises(Unfit, match="CRIU is not installed on this node"):
        host.criu_version("/nonexistent/criu")


def test_criu_that_cannot_run_is_unfit(tmp_path: Path) -> None:
    (tmp_path / "criu").write_text("x")
    with pytest.raises(Unfit, match="cannot be run"):
        host.criu_version(str(tmp_path / "criu"))


def test_criu_that_says_something_else_is_unfit(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="did not tell a version but 'hello'"):
        host.criu_version(program(tmp_path, "echo hello"))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("6.18.3-arch1-1", (6, 18, 3)),
        ("v4.2", (4, 2)),
        ("4.1.1-1", (4, 1, 1)),
        ("unknown", ()),
    ],
)
def test_a_version_begins_with_its_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert host.version_tuple(text) == numbers
