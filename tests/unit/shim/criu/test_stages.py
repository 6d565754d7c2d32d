from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shim.criu import stages

LOG = """\
(00.000000) CRIU run id = 1
(00.000024) Version: 4.2.1 (gitid 0)
(00.002502) Forking task with 1 pid (flags 0x6c028000)
no time stamp here
(00.004000)      1: mnt: Move the root to /tmp/.criu.mntns.TjkuSh
(00.003900) cg: another process was slower to write
(00.019000)      1: Opening fdinfo-s
(00.021000)      1: Restore via sigreturn
(00.060549) Running post-restore scripts
(00.062763) Restore finished successfully. Tasks resumed.
""".splitlines()


def test_each_stage_ends_where_the_next_begins() -> None:
    found, end = stages.read(LOG)
    assert list(found) == list(stages.BEGINNINGS)
    assert end == 0.062763
    assert found["images"] == (0.0, 0.002502)
    at = 0.0
    for begin, seconds in found.values():
        assert round(begin - at, 9) == 0
        at = begin + seconds
    assert round(at - end, 9) == 0


def test_a_stage_that_is_not_told_of_counts_to_the_one_before() -> None:
    found, _ = stages.read([line for line in LOG if "fdinfo" not in line])
    assert "files" not in found
    assert round(sum(found["mounts"]), 6) == 0.021


def test_a_restore_that_failed_has_what_it_got_to() -> None:
    found, end = stages.read(LOG[:3])
    assert list(found) == ["images", "processes"]
    assert found["processes"] == (end, 0.0)


def test_no_log() -> None:
    assert stages.read([]) == ({}, 0.0)


@given(st.lists(st.sampled_from(LOG) | st.text(max_size=30)))
def test_any_log_gives_stages_that_make_up_the_whole(lines: list[str]) -> None:
    found, end = stages.read(lines)
    assert all(seconds >= 0 for _, seconds in found.values())
    assert sum(seconds for _, seconds in found.values()) <= end + 1e-9 or not found
