from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cri import memory
from cri.memory import Usage, parse_private

PAGE = mmap.PAGESIZE
SIZE = 512 * PAGE

ROLLUP = """\
55d0a0000000-7ffc00021000 ---p 00000000 00:00 0                          [rollup]
Rss:                9000 kB
Pss:                5000 kB
Pss_Dirty:          4100 kB
Pss_Anon:           4096 kB
Pss_File:            904 kB
Pss_Shmem:             0 kB
Anonymous:          8192 kB
Swap:                 20 kB
SwapPss:              10 kB
"""


def test_anonymous_memory_counts_and_what_is_swapped() -> None:
    assert parse_private(ROLLUP) == (4096 + 10) * 1024
    assert parse_private("") == 0


class TestUsage:
    def test_nobody(self) -> None:
        assert memory.usage([]) is None
        assert memory.usage([2**22 + 1]) is None

    def test_a_process_that_has_ended_and_was_not_reaped(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert memory.usage([child.pid]) is None
        child.wait()

    @pytest.mark.parametrize("forks", [0, 1])
    def test_what_is_the_snapshots_and_what_is_not(self, tmp_path: Path, forks: int) -> None:
        """A page counts once, whichever processes have it, and not as shared once it is written."""
        pages = tmp_path / "pages"
        pages.write_bytes(b"x" * SIZE)
        script = f"""
import mmap, os, sys
file = open({str(pages)!r}, "rb")
memory = mmap.mmap(file.fileno(), {SIZE}, flags=mmap.MAP_PRIVATE, prot=3)
sum(memory[::{PAGE}])
own = b"y" * (16 << 20)
child = os.fork() if {forks} else 0
if not child:
    memory[:{8 * PAGE}] = b"z" * {8 * PAGE}
    # A write to a large folio unmaps all of it, so it is read once more.
    sum(memory[::{PAGE}])
    print(os.getpid(), flush=True)
sys.stdin.read()
"""
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as first:
            assert first.stdout is not None
            pids = list(dict.fromkeys([first.pid, int(first.stdout.readline())]))
            proc = tmp_path / "proc"
            for pid in pids:
                folder = proc / str(pid)
                folder.mkdir(parents=True)
                maps = Path(f"/proc/{pid}/maps").read_text()
                (folder / "maps").write_text(maps.replace(str(pages), "/.podthaw-pages"))
                for name in ("pagemap", "smaps_rollup"):
                    (folder / name).symlink_to(f"/proc/{pid}/{name}")
            found = memory.usage(pids, proc=proc)
            first.communicate()
        assert found is not None
        written = 0 if forks else 8 * PAGE  # by the child alone: its parent still has the file's
        assert found.shared == SIZE - written
        assert 16 << 20 < found.private < 40 << 20
        assert isinstance(found, Usage)
