from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.criu import log

DUMP = """\
(00.010000) Dumping task (pid: 4711)
(00.020000) Obtaining task stat ...
(00.030000) Dumping opened files (pid: 4711)
(00.031000) Error (criu/files-ext.c:98): Can't dump file 5 of that type [0] (anon_inode:[io_uring])
(00.032000) ----------------------------------------
(00.033000) Error (criu/cr-dump.c:1698): Dump files (pid: 4711) failed with -1
(00.040000) Unlock network
(00.041000) Unfreezing tasks into 1
(00.050000) Error (criu/cr-dump.c:2128): Dumping FAILED.
"""


def test_the_lines_that_tell() -> None:
    lines = log.failure_lines(DUMP.splitlines())
    assert lines[0] == "Obtaining task stat ..."
    assert "Can't dump file 5" in lines[2]
    assert lines[-1].endswith("Dumping FAILED.")
    assert not any(line.startswith("(00.") for line in lines)


def test_the_cause_stands_before_however_many_consequences() -> None:
    cause = (
        "(00.1)  7: Error (criu/sk-unix.c:1651): Can't bind id 0x1 ino 2 addr @x: Address in use"
    )
    more = [f"(00.2)  {n}: Error (criu/files.c:1): Unable to open fd={n}" for n in range(99)]
    lines = log.failure_lines(["(00.0) before", cause, *more], limit=5)
    assert lines[:2] == ["before", cause.removeprefix("(00.1)").lstrip()]
    assert lines[-1].endswith("fd=98")
    assert len(lines) == 5


def test_a_log_without_errors_ends_with_its_last_lines() -> None:
    assert log.failure_lines([f"(00.1) line {number}" for number in range(20)]) == [
        f"line {number}" for number in range(15, 20)
    ]
    assert log.failure_lines([]) == []


@given(st.lists(st.text(max_size=40)), st.integers(1, 20))
def test_never_more_lines_than_asked_for(lines: list[str], limit: int) -> None:
    found = log.failure_lines(lines, limit=limit)
    assert len(found) <= limit
    log.explain(found)


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dump.log"
    path.write_text("x" * 5000 + "\nfirst whole line\nlast line\n")
    assert log.read_tail(path, 40) == ["first whole line", "last line"]
    assert log.read_tail(tmp_path / "absent") == []
    assert log.tail(path)[-1] == "last line"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (DUMP.splitlines()[3], "io_uring"),
        (
            "Error (criu/files-ext.c): Can't dump file 3 of that type [20666] (chr 10:229 /dev/x)",
            "device file",
        ),
        ("Error (criu/bfd.c:1): Error flushing image: No space left on device", "disk is full"),
        ("Error (criu/util.c:1): Unable to write: File too large", "deadline"),
        (
            "Error (criu/cr-dump.c:374): Can't get rlimit 0: Operation not permitted",
            "CAP_SYS_RESOURCE",
        ),
        ("Error (criu/seize.c:576): Unable to freeze cgroup /x (100 x 100ms attempts)", "frozen"),
        ("Error (criu/namespaces.c:460): Can't dump nested pid namespace for 7", "namespaces"),
        ("Error (criu/mount.c:3141): No mapping for 700:/data mountpoint", "mount of the snapshot"),
        ("Error (criu/sk-unix.c:93): Unix socket 1 with unreachable peer 2 (3)", "unix socket"),
        ("Error (criu/sk-inet.c:9): Unsupported proto 262 for socket 3", "protocol"),
        ("Error (criu/files-reg.c:1): File usr/bin/x has bad size 1 (expect 2)", "differs in size"),
    ],
)
def test_what_errors_mean(line: str, words: str) -> None:
    assert words in log.explain([line])


def test_the_cause_comes_before_its_consequences() -> None:
    lines = log.failure_lines(DUMP.splitlines())
    assert "io_uring" in log.explain(lines)
    assert log.explain(["Error (x.c:1): something new"]) == ""
    assert log.explain(["No space left on device, says no error"]) == ""


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("Error (criu/protobuf.c:72): Unexpected EOF on core-1.img", "damaged"),
        ("Error (criu/protobuf.c:93): Read 3 bytes while 90 expected from mm-1.img", "damaged"),
        ("Error (criu/image.c:563): Magic doesn't match for files.img", "damaged"),
        ("Error (criu/image.c:635): Unable to open /sys/x: No such file or directory", ""),
    ],
)
def test_a_damaged_image_is_no_missing_file(line: str, meaning: str) -> None:
    told = log.explain([line])
    assert meaning in told
    assert "missing" not in told
