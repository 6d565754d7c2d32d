from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri import processes
from shim.container import CRI_NAMESPACE, TASKS

ID = "c" * 64


@pytest.fixture
def family() -> Iterator[list[int]]:
    """A process, its child by another thread than the first, and a grandchild."""
    script = (
        "import os, sys, threading\n"
        "def child():\n"
        "    if os.fork() == 0:\n"
        "        grandchild = os.fork()\n"
        "        if grandchild: print(os.getpid(), grandchild, flush=True)\n"
        "        sys.stdin.read(); os._exit(0)\n"
        "    threading.Event().wait(60)\n"
        "threading.Thread(target=child, daemon=True).start()\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        others = first.stdout.readline().split()
        yield [first.pid, *map(int, others)]
        first.stdin.close()


def test_the_tree(family: list[int]) -> None:
    assert processes.tree(family[0]) == family


def test_a_process_that_is_gone_is_alone() -> None:
    assert processes.tree(2**22 + 1) == [2**22 + 1]


class TestOfContainer:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        folder = tmp_path / TASKS / CRI_NAMESPACE / ID
        folder.mkdir(parents=True)
        return folder

    @pytest.fixture
    def proc(self, tmp_path: Path) -> Path:
        """Process 7 in the group of the container, with a child 8."""
        task = tmp_path / "proc" / "7" / "task" / "7"
        task.mkdir(parents=True)
        (task / "children").write_text("8 ")
        (tmp_path / "proc" / "7" / "cgroup").write_text(f"0::/kubepods/pod1/{ID}\n")
        return tmp_path / "proc"

    def test_its_tree(self, tmp_path: Path, bundle: Path, proc: Path) -> None:
        (bundle / "init.pid").write_text("7")
        assert processes.of_container(ID, tmp_path, proc=proc) == [7, 8]

    def test_a_number_that_another_process_has_by_now(
        self, tmp_path: Path, bundle: Path, proc: Path
    ) -> None:
        (bundle / "init.pid").write_text("7")
        (proc / "7" / "cgroup").write_text("0::/kubepods/pod1/" + "d" * 64)
        assert processes.of_container(ID, tmp_path, proc=proc) == []

    def test_one_that_has_ended(self, tmp_path: Path, bundle: Path, proc: Path) -> None:
        assert processes.of_container(ID, tmp_path, proc=proc) == []
        (bundle / "init.pid").write_text("9")
        assert processes.of_container(ID, tmp_path, proc=proc) == []
        (bundle / "init.pid").write_text("")
        assert processes.of_container(ID, tmp_path, proc=proc) == []

    def test_one_that_was_never_here(self, tmp_path: Path) -> None:
        assert processes.of_container(ID, tmp_path) == []
        assert list(tmp_path.iterdir()) == []
