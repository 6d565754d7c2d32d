from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cri.quarantine import Entry, Quarantine
from shim.errors import Refused, Unfit

ONE = "sha256:" + "1" * 64
ENTRY = Entry("CRIU failed: no such file", 1795515712.5, "shop/web-0")


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    return Quarantine(tmp_path / "state")


def test_put_get_release(quarantine: Quarantine) -> None:
    assert quarantine.get(ONE) is None
    assert quarantine.digests() == []
    assert not quarantine.release(ONE)
    quarantine.put(ONE, ENTRY)
    assert quarantine.get(ONE) == ENTRY
    assert quarantine.digests() == [ONE]
    assert quarantine.folder.stat().st_mode & 0o777 == 0o700
    assert (quarantine.folder / ONE[7:]).stat().st_mode & 0o777 == 0o600
    quarantine.put(ONE, Entry("again", 1.0))
    assert quarantine.get(ONE) == Entry("again", 1.0)
    assert quarantine.release(ONE)
    assert quarantine.get(ONE) is None
    assert list(quarantine.folder.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", b'{"reason": "x"}', b'{"reason": "x", "time": "y"}']
)
def test_a_file_that_says_nothing_quarantines_all_the_same(
    quarantine: Quarantine, content: bytes
) -> None:
    quarantine.folder.mkdir(parents=True)
    (quarantine.folder / ONE[7:]).write_bytes(content)
    entry = quarantine.get(ONE)
    assert entry is not None
    assert entry.reason == "the quarantine's file gives no reason"
    assert entry.time > 0


def test_a_link_quarantines_and_is_not_followed(quarantine: Quarantine, tmp_path: Path) -> None:
    quarantine.folder.mkdir(parents=True)
    (tmp_path / "outside").write_text(json.dumps({"reason": "other", "time": 1}))
    (quarantine.folder / ONE[7:]).symlink_to(tmp_path / "outside")
    entry = quarantine.get(ONE)
    assert entry is not None
    assert entry.reason.startswith("the quarantine's file cannot be read: ")
    assert quarantine.release(ONE)
    assert (tmp_path / "outside").exists()


def test_a_path_is_refused(quarantine: Quarantine) -> None:
    for act in (quarantine.get, quarantine.release):
        with pytest.raises(Refused, match="is not a digest"):
            act("sha256:../../etc/passwd")
    with pytest.raises(Refused, match="is not a digest"):
        quarantine.put("../x", ENTRY)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unfit, match=r"cannot be quarantined: .*: No space left on device$"):
        quarantine.put(ONE, ENTRY)
    assert list(quarantine.folder.iterdir()) == []


def test_foreign_files_are_not_listed(quarantine: Quarantine) -> None:
    quarantine.put(ONE, ENTRY)
    (quarantine.folder / "README").touch()
    assert quarantine.digests() == [ONE]


def test_a_file_in_place_of_the_folder_is_a_sentence(
    quarantine: Quarantine, tmp_path: Path
) -> None:
    (tmp_path / "state/node").mkdir(parents=True)
    (tmp_path / "state/node/quarantine").touch()
    with pytest.raises(Unfit, match="cannot be read: Not a directory"):
        quarantine.digests()
    with pytest.raises(Unfit, match="cannot be quarantined"):
        quarantine.put(ONE, ENTRY)
    with pytest.raises(Unfit, match="cannot leave the quarantine"):
        quarantine.release(ONE)
