"""Why a restore failed, from the logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.criu import failure as reason
from shim.errors import Broken, Unfit

VOLUME = {
    "mounts": [
        {"destination": "/database", "type": "tmpfs"},
        {"destination": "/data/", "type": "bind", "source": "/volume"},
    ]
}


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        ("(00.1) Error (criu/sk-inet.c:1): Can't bind inet socket (id 1): Address already in use",
         Unfit, "in use"),
        (("(00.1) 1: Error (criu/sk-unix.c:1651): Can't bind id 0x5 ino 31 addr @x: "
         "Address already in use\n(00.2) Error (criu/cr-restore.c:2557): Restoring FAILED."),
         Unfit, "in use"),
        ("(00.1) Error (criu/image.c:1): write: No space left on device", Unfit, "disk is full"),
        ("(00.1) Error (criu/x.c:1): Can't fork for 7: Resource temporarily unavailable",
         Unfit, "Can't fork"),
        ("(00.1) Error (criu/files-reg.c:1): Can't open file data/x on restore: No such file",
         Unfit, "is missing: /data/x"),
        ("(00.1) Error (criu/files-reg.c:1): Can't open file database/x: No such file",
         Broken, "is missing: /database/x"),
        ("(00.1) 1: Error (criu/files-reg.c:2175): File data/a b has bad size 1 (expect 2)",
         Unfit, "from the one at the capture: /data/a b"),
        ("(00.1) Error (criu/new.c:1): something new", Broken, "something new"),
        ("(00.1) no error\n(00.2) the end", Broken, "the end"),
    ],
)  # fmt: skip
def test_what_crius_log_says(tmp_path: Path, log: str, kind: type[Exception], words: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/restore.log").write_text(log + "\n")
    failure = reason.explain(
        str(tmp_path / "work"), str(tmp_path), "the restore failed with status 1", VOLUME
    )
    assert isinstance(failure, kind)
    assert words in str(failure)
    assert failure.detail
    assert "(00." not in failure.detail


def test_without_a_log_of_criu_that_of_runc_speaks(tmp_path: Path) -> None:
    (tmp_path / "runc.log").write_text(
        'time="t" level=warning msg="w"\ntime="t" level=error msg="exec \\"criu\\": not found"\n'
    )
    failure = reason.explain(
        str(tmp_path / "work"), str(tmp_path), "the restore failed with status 1", VOLUME
    )
    assert str(failure) == 'the restore failed with status 1: exec "criu": not found'
    (tmp_path / "runc.log").unlink()
    assert str(reason.explain(str(tmp_path / "work"), str(tmp_path), "why", {})) == "why"


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("(00.1) Error (criu/cr-restore.c:1269): 911 killed by signal 9: Killed", Unfit),
        (("(00.1) Error (criu/image.c:1): Can't read\n"
         "(00.2) Error (criu/cr-restore.c:1269): 911 killed by signal 9: Killed"), Broken),
    ],
)  # fmt: skip
def test_a_process_killed_from_outside_is_no_fault_of_the_snapshot(
    tmp_path: Path, log: str, kind: type[Exception]
) -> None:
    """As by a memory limit of the request that is too small; unless it is CRIU's own cleaning."""
    (tmp_path / "restore.log").write_text(log)
    failure = reason.explain(str(tmp_path), str(tmp_path), "the restore failed", {})
    assert type(failure) is kind
