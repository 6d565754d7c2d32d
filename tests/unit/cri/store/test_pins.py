from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cri.store import Store
from cri.store.files import Area
from cri.store.pins import Pins, in_use, is_mark, plan_of
from shim.errors import Refused, Unfit
from tests.unit.cri.store.making import publish

PLAN = "0123456789abcdef" * 2
ABSENT = "sha256:" + "9" * 64


@pytest.fixture
def area(tmp_path: Path) -> Area:
    return Area(tmp_path / "store", "node-1")


@pytest.fixture
def digest(area: Area) -> str:
    return publish(Store(area.root), "a")


@pytest.fixture
def pins(area: Area) -> Pins:
    return Pins(area)


def test_pin_and_unpin(area: Area, pins: Pins, digest: str) -> None:
    assert pins.of(digest) == []
    pins.add(digest)
    pins.add(digest, pins.who(PLAN))
    pins.add(digest)
    assert pins.of(digest) == [f"node-1.{PLAN}", "user"]
    assert pins.drop(digest)
    assert not pins.drop(digest)
    assert pins.drop(digest, f"node-1.{PLAN}")
    assert pins.of(digest) == []
    assert list((area.root / "pins").iterdir()) == []


def test_what_is_absent_cannot_be_pinned(area: Area, pins: Pins, digest: str) -> None:
    assert digest != ABSENT
    with pytest.raises(Unfit, match=rf"^there is no snapshot {ABSENT} in the store {area.root}$"):
        pins.add(ABSENT)
    assert list((area.root / "pins").iterdir()) == []


@pytest.mark.parametrize(
    "who",
    [
        "",
        ".",
        "..",
        "../x",
        "root",
        "user ",
        f"node/x.{PLAN}",
        f".{PLAN}",
        f"n.{PLAN}0",
        f"-.{PLAN}",
        f"node.{PLAN}\n",
        f"removing~.{PLAN}",
        PLAN,
        f"n.{PLAN.upper()}",
    ],
)
def test_nobody_else_pins(pins: Pins, digest: str, who: str) -> None:
    for act in (pins.add, pins.drop):
        with pytest.raises(Refused, match="is not who can pin: wanted user or NODE"):
            act(digest, who)


def test_who_is_who() -> None:
    assert not in_use("user")
    assert in_use(f"node.example.{PLAN}")
    assert plan_of("user") is None
    assert plan_of(f"node.example.{PLAN}") == ("node.example", PLAN)


def test_a_pin_gives_way_to_a_removal(area: Area, pins: Pins, digest: str) -> None:
    with pins.removing(digest):
        (mark,) = area.entries("pins", digest[7:])
        assert is_mark(mark)
        assert pins.of(digest) == []
        with pytest.raises(Unfit, match=rf"^the snapshot {digest} is being removed$"):
            pins.add(digest)
        with pytest.raises(Unfit, match="is being removed"):
            pins.require_staying(digest)
        assert area.entries("pins", digest[7:]) == [mark]
    pins.add(digest)
    assert pins.of(digest) == ["user"]


def test_the_mark_of_a_dead_removal_loses_its_force(area: Area, pins: Pins, digest: str) -> None:
    area.write(b"", "pins", digest[7:], "removing~node-2.1.x")
    with pytest.raises(Unfit, match="is being removed"):
        pins.add(digest)
    mark = area.root / "pins" / digest[7:] / "removing~node-2.1.x"
    long_ago = mark.stat().st_mtime - 601
    os.utime(mark, (long_ago, long_ago))
    pins.add(digest)
    assert pins.of(digest) == ["user"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_removal_needs_no_room_for_its_mark(
    pins: Pins, digest: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", full)
    ran = False
    with pins.removing(digest):
        ran = True
    assert ran


def test_another_failure_to_mark_stops_the_removal(
    pins: Pins, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.raises(OSError, match="Read-only"), pins.removing(digest):
        raise AssertionError


def test_a_restore_waits_for_no_disk_and_a_person_does(
    pins: Pins, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    pins.add(digest, pins.who(PLAN))
    pins.drop(digest, pins.who(PLAN))
    assert synced == []
    pins.add(digest)
    pins.drop(digest)
    assert len(synced) == 3
