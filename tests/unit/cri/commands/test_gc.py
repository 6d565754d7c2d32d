from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest

from cri.prefetch.hot import Hot, HotPages
from cri.store import Store
from tests.unit.cri.commands.conftest import Podthaw
from tests.unit.cri.store.making import publish

DAY = 86400.0


@pytest.fixture
def orphan(store: Store) -> str:
    digest = publish(store, "orphan")
    make_old(store, digest, 2)
    return digest


def make_old(store: Store, digest: str, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(store.folder(digest), (then, then))


def test_nothing_to_do(podthaw: Podthaw, web: str) -> None:
    assert web
    assert podthaw("gc") == (0, "", "0 B in snapshots and 0 leftovers removed\n")


def test_no_store_yet(podthaw: Podthaw, tmp_path: Path) -> None:
    assert podthaw("gc") == (0, "", f"there is no snapshot store at {tmp_path}/store yet\n")
    assert podthaw("gc", "-q") == (0, "", "")
    assert podthaw("gc", "-o", "json")[0] == 1


def test_an_orphan(podthaw: Podthaw, store: Store, web: str, orphan: str) -> None:
    kib = f"{store.snapshots()[0].disk / 1024:.1f} KiB"
    table = (
        "DIGEST                NAMES   SIZE       REMOVED    REASON\n"
        f"{orphan[:19]}   -       {kib}   snapshot   no name points to it\n"
    )
    assert podthaw("gc", "--dry-run") == (
        0,
        table,
        f"{kib} in snapshots and 0 leftovers would be removed\n",
    )
    assert len(store.snapshots()) == 2
    assert podthaw("gc") == (0, table, f"{kib} in snapshots and 0 leftovers removed\n")
    assert [one.digest for one in store.snapshots()] == [web]


def test_what_a_node_learned_goes_with_the_snapshot(
    podthaw: Podthaw, web: str, orphan: str, tmp_path: Path
) -> None:
    hot = HotPages(tmp_path / "state")
    for digest in (web, orphan):
        hot.put(digest, Hot(size=4096, runs=1))
    assert podthaw("gc", "--dry-run")[0] == 0
    assert hot.get(orphan, 4096).runs == 1
    assert podthaw("gc")[0] == 0
    assert [hot.get(digest, 4096).runs for digest in (web, orphan)] == [1, 0]


def test_quiet_and_json(podthaw: Podthaw, store: Store, orphan: str) -> None:
    assert podthaw("gc", "-q", "--dry-run") == (0, f"{orphan}\n", "")
    disk = store.snapshots()[0].disk
    status, out, err = podthaw("gc", "-o", "json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "dry_run": False,
        "removed": [
            {
                "digest": orphan,
                "names": [],
                "whole": True,
                "reclaimed": disk,
                "reason": "no name points to it",
            }
        ],
        "leftovers": [],
        "problems": [],
    }


def test_limits_from_the_options(podthaw: Podthaw, store: Store, web: str) -> None:
    make_old(store, web, 40)
    other = publish(store, "other")
    store.set_name("shop", "api", other)
    for option, value, removed in (
        ("--max-age", "30d", f"{web}\n"),
        ("--max-age", "50d", ""),
        ("--max-count", "1", f"{web}\n"),
        ("--max-count", "2", ""),
        ("--max-size", "1Ki", f"{web}\n{other}\n"),
        ("--max-size", "1Gi", ""),
    ):
        assert podthaw("gc", "--dry-run", "-q", option, value) == (0, removed, "")


def test_limits_from_the_configuration(
    podthaw: Podthaw, node_config: Path, store: Store, web: str
) -> None:
    make_old(store, web, 40)
    with node_config.open("a") as file:
        file.write('gc_max_age = "30d"\n')
    assert podthaw("gc", "--dry-run", "-q") == (0, f"{web}\n", "")
    assert podthaw("gc", "--dry-run", "-q", "--max-age", "50d") == (0, "", "")
    assert podthaw("gc", "--dry-run", "-q", "--max-age", "none") == (0, "", "")


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--max-count", "many", "'many' is not a number of snapshots"),
        ("--max-count", "-1", "'-1' is not a number of snapshots"),
        ("--max-age", "30", "'30' is not a duration: wanted a number and a unit, such as 30d"),
        ("--max-size", "big", "'big' is not a size: wanted a number and a unit, such as 20Gi"),
    ],
)
def test_wrong_limits(podthaw: Podthaw, option: str, value: str, sentence: str) -> None:
    status, out, err = podthaw("gc", f"{option}={value}")
    assert (status, out) == (2, "")
    assert err.split("\n")[-2] == f"podthaw: argument {option}: {sentence}; see `podthaw gc --help`"


def test_pins_of_vanished_plans_go_and_of_living_ones_stay(
    podthaw: Podthaw, store: Store, web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time()
    ours = partial(Store, node="node-1", clock=lambda: later)
    monkeypatch.setattr("cri.commands.common.Store", ours)
    living, dead = "0" * 32, "f" * 32
    (tmp_path / "run/plans" / living).mkdir(parents=True)
    store.pin(web, store.plan_pin(living))
    store.pin(web, store.plan_pin(dead))
    assert podthaw("gc")[0] == 0
    assert len(store.pins(web)) == 2
    later += 3600
    assert podthaw("gc") == (0, "", "0 B in snapshots and 1 leftover removed\n")
    assert store.pins(web) == [f"node-1.{living}"]


def test_what_could_not_be_removed_is_told(
    podthaw: Podthaw, store: Store, orphan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.remove

    def pinned_meanwhile(self: Store, one: str, **kwargs: object) -> None:
        self.pin(one)
        real(self, one, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "remove", pinned_meanwhile)
    assert podthaw("gc") == (
        1,
        "",
        f"podthaw: the snapshot {orphan} is pinned\n0 B in snapshots and 0 leftovers removed\n",
    )
    assert len(store.snapshots()) == 1
