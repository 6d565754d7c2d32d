from __future__ import annotations

import time
from pathlib import Path

import pytest

from cri.store import Collected, Policy, Store
from tests.unit.cri.store.making import publish

PLAN = "0123456789abcdef" * 2
GONE = "9" * 64
MINUTE, DAY = 60.0, 86400.0


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    store = Store(tmp_path / "store", node="node-1", clock=clock)
    store.create()
    return store


def swept(store: Store, plans: list[str] | None = None) -> list[str]:
    dry = store.gc(Policy(), dry_run=True, plans=plans)
    done = store.gc(Policy(), plans=plans)
    assert dry.swept == done.swept
    assert done.kept == []
    return done.swept


def test_an_abandoned_staging_folder_goes_after_a_day(store: Store, clock: Clock) -> None:
    folder = store.root / "tmp/node-2.1.abc"
    (folder / "images").mkdir(parents=True)
    (folder / "images/pages").write_text("x")
    (store.root / "tmp/node-2.1.file").write_text("x")
    clock.ahead = DAY - MINUTE
    assert swept(store) == []
    clock.ahead = DAY + MINUTE
    assert swept(store) == ["tmp/node-2.1.abc", "tmp/node-2.1.file"]
    assert list((store.root / "tmp").iterdir()) == []


def test_a_staging_folder_that_is_written_to_stays(store: Store, clock: Clock) -> None:
    with store.stage() as stage:
        (stage / "images").mkdir()
        (stage / "images/pages").write_text("x")
        assert swept(store) == []
        clock.ahead = DAY - MINUTE
        assert swept(store) == []
        assert (stage / "images/pages").exists()


def test_a_half_removed_snapshot_goes_after_ten_minutes(store: Store, clock: Clock) -> None:
    (store.root / "tmp/node-2.1.abc.removed/images").mkdir(parents=True)
    assert swept(store) == []
    clock.ahead = 11 * MINUTE
    assert swept(store) == ["tmp/node-2.1.abc.removed"]


def test_a_link_in_tmp_is_not_followed(store: Store, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_text("x")
    (store.root / "tmp/link").symlink_to(tmp_path / "outside")
    clock.ahead = DAY + MINUTE
    assert swept(store) == ["tmp/link"]
    assert (tmp_path / "outside/precious").exists()


def test_pins_of_this_nodes_vanished_plans_go(store: Store, clock: Clock) -> None:
    digest = publish(store)
    store.set_name("shop", "web", digest)
    living, dead, other = PLAN, PLAN[::-1], "f" * 32
    store.pin(digest)
    for who in (store.plan_pin(living), store.plan_pin(dead), f"node-2.{other}"):
        store.pin(digest, who)
    assert swept(store, [living]) == []
    clock.ahead = 11 * MINUTE
    assert swept(store) == []
    assert swept(store, [living]) == [f"pins/{digest[7:]}/node-1.{dead}"]
    assert store.pins(digest) == [f"node-1.{living}", f"node-2.{other}", "user"]


def test_a_snapshot_whose_last_pin_was_stale_goes_in_the_same_run(
    store: Store, clock: Clock
) -> None:
    digest = publish(store)
    store.pin(digest, store.plan_pin(PLAN))
    clock.ahead = 2 * 60 * MINUTE
    assert [one.digest for one in store.gc(Policy(), dry_run=True, plans=[]).removals] == [digest]
    assert [one.digest for one in store.gc(Policy(), plans=[]).removals] == [digest]
    assert store.snapshots() == []


def test_the_mark_of_a_dead_removal_goes(store: Store, clock: Clock) -> None:
    digest = publish(store)
    store.set_name("shop", "web", digest)
    (store.root / "pins" / digest[7:]).mkdir()
    mark = store.root / "pins" / digest[7:] / "removing~node-2.1.abc"
    mark.touch()
    assert swept(store) == []
    clock.ahead = 11 * MINUTE
    assert swept(store) == [f"pins/{digest[7:]}/removing~node-2.1.abc"]
    assert not mark.exists()


def test_what_belongs_to_a_snapshot_that_is_gone_goes_after_a_day(
    store: Store, clock: Clock
) -> None:
    (store.root / "pins" / GONE).mkdir()
    (store.root / "pins" / GONE / "user").touch()
    (store.root / "used" / GONE).touch()
    (store.root / "names/shop").mkdir()
    (store.root / "names/shop/web").write_text(f"sha256:{GONE}\n")
    clock.ahead = DAY - MINUTE
    assert swept(store) == []
    clock.ahead = DAY + MINUTE
    assert swept(store) == [f"pins/{GONE}", f"used/{GONE}", "names/shop/web"]
    assert store.gc(Policy()) == Collected([], [], [])
