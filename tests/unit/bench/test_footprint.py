from __future__ import annotations

import os
from pathlib import Path

from tests.bench import footprint

ROLLUP = """5581e000-7ffc1000 ---p 00000000 00:00 0                          [rollup]
Rss:                6416 kB
Pss:                2305 kB
Pss_Anon:            936 kB
Anonymous:           936 kB
"""
STATUS = "Name:\tpython3\nVmRSS:\t    6416 kB\nVmPTE:\t      72 kB\n"


def test_a_process_is_read_from_its_two_files() -> None:
    one = footprint.parse(ROLLUP, STATUS)
    assert one == footprint.Footprint(
        anonymous=936 << 10, page_tables=72 << 10, resident=6416 << 10, proportional=2305 << 10
    )
    assert (one + one).resident == 2 * one.resident


def test_processes_are_found_by_their_namespace() -> None:
    own = Path(f"/proc/{os.getpid()}")
    wanted = footprint.in_network(own / "ns/net")
    assert wanted(own)
    found = footprint.of(lambda folder: wanted(folder) and folder.name == str(os.getpid()))
    assert found.anonymous > 1 << 20


def test_no_process_has_no_memory() -> None:
    assert footprint.of(footprint.in_cgroup("/no such cgroup/")) == footprint.NOTHING
