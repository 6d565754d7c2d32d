from __future__ import annotations

from pathlib import Path

import pytest

from cri import capture
from cri.capture import Options
from cri.store import Store
from shim import capture as dumping
from shim.errors import Refused, Unfit
from shim.finding import Finding
from tests.unit.cri.test_manifesting import target

FAILURE = Finding(
    check="io-uring", severity="fail", what="process 1", why="it has a ring", remedy="close it"
)
WARNING = Finding(check="exec", severity="warn", what="process 9", why="odd", remedy="end it")


def test_failures_are_told_together(tmp_path: Path) -> None:
    found = target(tmp_path)
    other = Finding(check="gpu", severity="fail", what="process 2", why="gpu", remedy="none")
    with pytest.raises(Unfit) as caught:
        capture.require(found, [FAILURE, other, WARNING])
    assert str(caught.value) == (
        "shop/web-0, container main cannot be captured: process 1: it has a ring; close it "
        "(and 1 more)"
    )
    assert "gpu: process 2" in caught.value.detail
    assert capture.require(found, [WARNING]) == [WARNING]


def test_a_bad_name_is_refused_before_anything(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not a snapshot's name"):
        capture.take(target(tmp_path), "../x", Store(tmp_path / "store"), Options(run=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("location", ["relative.tar", "/"])
def test_a_bad_location(tmp_path: Path, location: str) -> None:
    with pytest.raises(Refused, match="not an absolute path of a file"):
        capture.export(target(tmp_path), Path(location), Options(run=tmp_path / "run"))


def test_a_location_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=r"nothing can be written to .*absent: No such file"):
        capture.export(target(tmp_path), tmp_path / "absent/x.tar", Options(run=tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run/locks").iterdir()] == []


def test_one_capture_at_a_time(tmp_path: Path) -> None:
    found = target(tmp_path)
    with (
        dumping.exclusive(found.container.id, tmp_path),
        pytest.raises(Unfit, match="another capture of the container c1 is running"),
    ):
        capture.check(found, Options(run=tmp_path), tmp_path)
