from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import affinity
from shim.snapshot import AFFINITY

ALL = os.sched_getaffinity(0)
ONE = {min(ALL)}

pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="one processor leaves nothing to choose")


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def group(folder: Path, pid: int, allowed: set[int], name: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(",".join(map(str, sorted(allowed))) + "\n")
    (folder / "cgroup.procs").write_text(f"{pid}\n")
    return str(folder)


@pytest.mark.parametrize("name", ["cpuset.cpus.effective", "cpuset.effective_cpus"])
def test_a_bound_thread_is_bound_again(tmp_path: Path, child: int, name: str) -> None:
    folders = [str(tmp_path / "absent"), group(tmp_path / "group", child, ALL, name)]
    os.sched_setaffinity(child, ONE)
    affinity.save([child], folders, tmp_path)
    os.sched_setaffinity(child, ALL)  # as CRIU leaves it
    affinity.apply(tmp_path, folders)
    assert os.sched_getaffinity(child) == ONE


def test_nothing_is_written_for_free_threads(tmp_path: Path, child: int) -> None:
    affinity.save([child], [group(tmp_path, child, ALL, "cpuset.cpus.effective")], tmp_path)
    affinity.save([child], [str(tmp_path / "absent")], tmp_path)
    assert not (tmp_path / AFFINITY).exists()


def test_another_set_of_processors_leaves_it_free(tmp_path: Path, child: int) -> None:
    folders = [group(tmp_path, child, ALL, "cpuset.cpus.effective")]
    os.sched_setaffinity(child, ONE)
    affinity.save([child], folders, tmp_path)
    os.sched_setaffinity(child, ALL)
    group(tmp_path, child, ALL | {max(ALL) + 1}, "cpuset.cpus.effective")
    affinity.apply(tmp_path, folders)
    assert os.sched_getaffinity(child) == ALL


def test_what_a_thread_has_done_since_stays(tmp_path: Path, child: int) -> None:
    folders = [group(tmp_path, child, ALL, "cpuset.cpus.effective")]
    saved = {"allowed": sorted(ALL), "threads": {str(child): sorted(ONE)}}
    (tmp_path / AFFINITY).write_text(json.dumps(saved))
    other = {max(ALL)}
    os.sched_setaffinity(child, other)
    affinity.apply(tmp_path, folders)
    assert os.sched_getaffinity(child) == other


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"allowed": 1, "threads": {}}', '{"allowed": [], "threads": {"x": [0]}}'],
)
def test_a_file_of_another_kind_is_no_trouble(tmp_path: Path, child: int, text: str) -> None:
    (tmp_path / AFFINITY).write_text(text)
    affinity.apply(tmp_path, [group(tmp_path, child, ALL, "cpuset.cpus.effective")])
    assert os.sched_getaffinity(child) == ALL


@given(st.sets(st.integers(0, 300)))
def test_lists_are_read(numbers: set[int]) -> None:
    assert affinity.parse(",".join(map(str, sorted(numbers))) + "\n") == numbers


def test_ranges_are_read() -> None:
    assert affinity.parse("0-2,7,9-10\n") == {0, 1, 2, 7, 9, 10}
    with pytest.raises(ValueError, match="x"):
        affinity.parse("x-2")
