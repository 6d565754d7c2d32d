from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cri.store.entry import Snapshot
from cri.store.gc import ORPHAN_GRACE, Policy, Removal, choose

NOW = 1_000_000.0
DAY = 86400.0


def one(
    digit: str,
    *names: str,
    used: float = NOW - 10 * DAY,
    disk: int = 100,
    pins: tuple[str, ...] = (),
) -> Snapshot:
    pairs = tuple((name.split("/")[0], name.split("/")[1]) for name in sorted(names))
    return Snapshot(
        digest="sha256:" + digit * 64,
        folder=Path("/store"),
        names=pairs,
        pins=pins,
        published=used,
        used=used,
        disk=disk,
        manifest=None,
    )


def whole(snapshot: Snapshot, reason: str) -> Removal:
    return Removal(
        digest=snapshot.digest,
        names=snapshot.names,
        whole=True,
        reclaimed=snapshot.disk,
        reason=reason,
    )


def digits(removals: list[Removal]) -> str:
    return "".join(removal.digest[-1] for removal in removals)


def test_without_limits_only_old_orphans_go() -> None:
    snapshots = [
        one("1", "shop/web"),
        one("2"),
        one("3", used=NOW - ORPHAN_GRACE + 1),
        one("4", used=NOW - ORPHAN_GRACE),
        one("5", pins=("user",)),
    ]
    assert choose(snapshots, Policy(), NOW) == [
        whole(snapshots[1], "no name points to it"),
        whole(snapshots[3], "no name points to it"),
    ]


def test_by_age() -> None:
    snapshots = [
        one("1", "shop/old", used=NOW - 31 * DAY),
        one("2", "shop/limit", used=NOW - 30 * DAY),
        one("3", "shop/held", used=NOW - 99 * DAY, pins=("user",)),
    ]
    assert choose(snapshots, Policy(max_age=30 * DAY), NOW) == [
        whole(snapshots[0], "unused for 31d, limit 30d")
    ]


def test_by_count_least_recently_used_first_in_each_namespace() -> None:
    snapshots = [
        one("1", "shop/a", used=NOW - 3),
        one("2", "shop/b", used=NOW - 1),
        one("3", "shop/c", used=NOW - 2),
        one("4", "bank/a", used=NOW - 9),
    ]
    removals = choose(snapshots, Policy(max_count=1), NOW)
    assert digits(removals) == "13"
    assert {removal.reason for removal in removals} == {
        "the namespace shop has 3 snapshots, limit 1"
    }


def test_by_count_a_snapshot_with_a_name_elsewhere_loses_only_these_names() -> None:
    shared = one("1", "shop/a", "shop/b", "bank/a", used=NOW - 9)
    snapshots = [shared, one("2", "shop/c", used=NOW - 1)]
    assert choose(snapshots, Policy(max_count=1), NOW) == [
        Removal(
            digest=shared.digest,
            names=(("shop", "a"), ("shop", "b")),
            whole=False,
            reclaimed=0,
            reason="the namespace shop has 2 snapshots, limit 1",
        )
    ]


def test_by_count_a_snapshot_goes_with_its_last_name() -> None:
    removals = choose(
        [
            one("1", "shop/a", "bank/a", used=NOW - 9),
            one("2", "shop/b", used=NOW),
            one("3", "bank/b", used=NOW),
        ],
        Policy(max_count=1),
        NOW,
    )
    assert [(removal.digest[-1], removal.whole, removal.reclaimed) for removal in removals] == [
        ("1", True, 100)
    ]


def test_pinned_ones_count_but_stay() -> None:
    snapshots = [
        one("1", "shop/a", used=NOW - 9, pins=("user",)),
        one("2", "shop/b", used=NOW - 8, pins=("n." + "0" * 32,)),
        one("3", "shop/c", used=NOW - 7),
    ]
    assert digits(choose(snapshots, Policy(max_count=2), NOW)) == "3"
    assert digits(choose(snapshots, Policy(max_count=0), NOW)) == "3"


def test_by_size_orphans_first_then_least_recently_used() -> None:
    snapshots = [
        one("1", "shop/a", used=NOW - 3 * DAY, disk=400),
        one("2", "shop/b", used=NOW - 2 * DAY, disk=400),
        one("3", used=NOW - DAY, disk=400),
    ]
    assert digits(choose(snapshots, Policy(max_size=800), NOW)) == "3"
    removals = choose(snapshots, Policy(max_size=799), NOW)
    assert digits(removals) == "31"
    assert removals[1].reason == "the store holds 1.2 KiB, limit 799 B"
    assert digits(choose(snapshots, Policy(max_size=0), NOW)) == "312"


def test_by_size_a_new_orphan_is_left_to_whoever_names_it() -> None:
    assert choose([one("1", used=NOW - 5, disk=400)], Policy(max_size=0), NOW) == []


SNAPSHOTS = st.lists(
    st.builds(
        one,
        st.sampled_from("0123456789abcdef"),
        used=st.floats(0, NOW),
        disk=st.integers(0, 1000),
        pins=st.sampled_from([(), (), ("user",)]),
    ).flatmap(
        lambda base: st.lists(
            st.sampled_from(["a/x", "a/y", "b/x", "b/y", "c/x"]), unique=True, max_size=3
        ).map(
            lambda names: one(
                base.digest[-1], *names, used=base.used, disk=base.disk, pins=base.pins
            )
        )
    ),
    unique_by=lambda snapshot: snapshot.digest,
    max_size=8,
)
LIMITS = st.builds(
    Policy,
    max_count=st.none() | st.integers(0, 4),
    max_age=st.none() | st.floats(0, NOW),
    max_size=st.none() | st.integers(0, 4000),
)


def what_is_left(
    snapshots: list[Snapshot], removals: list[Removal]
) -> list[tuple[Snapshot, set[tuple[str, str]]]]:
    by_digest = {removal.digest: removal for removal in removals}
    left = []
    for snapshot in snapshots:
        removal = by_digest.get(snapshot.digest)
        if removal is None or not removal.whole:
            gone = set(removal.names) if removal else set()
            left.append((snapshot, set(snapshot.names) - gone))
    return left


@given(SNAPSHOTS, LIMITS)
def test_each_step_is_sound(snapshots: list[Snapshot], policy: Policy) -> None:
    removals = choose(snapshots, policy, NOW)
    by_digest = {snapshot.digest: snapshot for snapshot in snapshots}
    assert len({removal.digest for removal in removals}) == len(removals)
    for removal in removals:
        snapshot = by_digest[removal.digest]
        assert not snapshot.pins
        assert removal.reclaimed == (snapshot.disk if removal.whole else 0)
        if removal.whole:
            assert set(removal.names) == set(snapshot.names)
        else:
            assert set() < set(removal.names) < set(snapshot.names)


@given(SNAPSHOTS, LIMITS)
def test_the_limits_hold_as_far_as_pins_allow(snapshots: list[Snapshot], policy: Policy) -> None:
    left = what_is_left(snapshots, choose(snapshots, policy, NOW))
    free = [(snapshot, names) for snapshot, names in left if not snapshot.pins]
    assert all(names or NOW - snapshot.used < ORPHAN_GRACE for snapshot, names in free)
    if policy.max_age is not None:
        assert all(NOW - snapshot.used <= policy.max_age for snapshot, names in free if names)
    if policy.max_size is not None and any(names for _, names in free):
        assert sum(snapshot.disk for snapshot, _ in left) <= policy.max_size


@given(SNAPSHOTS, LIMITS, st.sampled_from("abc"))
def test_the_count_holds_in_each_namespace(
    snapshots: list[Snapshot], policy: Policy, namespace: str
) -> None:
    left = what_is_left(snapshots, choose(snapshots, policy, NOW))
    here = [one for one, names in left if any(name[0] == namespace for name in names)]
    if policy.max_count is not None and not all(one.pins for one in here):
        assert len(here) <= policy.max_count


@given(SNAPSHOTS)
def test_without_limits_nothing_with_a_name_goes(snapshots: list[Snapshot]) -> None:
    assert all(not removal.names for removal in choose(snapshots, Policy(), NOW))
