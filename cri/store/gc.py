"""What garbage collection removes: a pure choice from what is there, the limits and the time.

A pinned snapshot is never chosen, but counts. Without any limit, only snapshots that no name
points to are chosen, since no pod can ask for them any more; those that are new are left alone,
as whoever published one may be about to name it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cri.store.entry import Snapshot
from cri.units import human_duration, human_size

ORPHAN_GRACE = 3600.0
"""Seconds for which a snapshot without a name is left alone after publication and each use."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Limits of a store; None means no limit."""

    max_count: int | None = None
    """Snapshots that one namespace may have names for."""
    max_age: float | None = None
    """Seconds for which a snapshot may be unused."""
    max_size: int | None = None
    """Bytes on disk that all snapshots together may take."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One step of a collection: names to remove, and with the last of them the snapshot."""

    digest: str
    names: tuple[tuple[str, str], ...]
    """The names that go, as (namespace, name)."""
    whole: bool
    """Whether the snapshot goes too; otherwise only these names go."""
    reclaimed: int
    """Bytes on disk that come free."""
    reason: str


def choose(snapshots: list[Snapshot], policy: Policy, now: float) -> list[Removal]:
    """What to remove, in order: orphans, then by age, count and size, least recently used first.

    ``now`` is Unix time in seconds.
    """
    chosen: dict[str, Removal] = {}
    candidates = sorted(
        (one for one in snapshots if not one.pins), key=lambda one: (one.used, one.digest)
    )
    for one in candidates:
        idle = now - one.used
        if not one.names:
            if idle >= ORPHAN_GRACE:
                chosen[one.digest] = _whole(one, "no name points to it")
        elif policy.max_age is not None and idle > policy.max_age:
            chosen[one.digest] = _whole(
                one,
                f"unused for {human_duration(idle)}, limit {human_duration(policy.max_age)}",
            )
    if policy.max_count is not None:
        _by_count(snapshots, candidates, policy.max_count, chosen)
    if policy.max_size is not None:
        _by_size(snapshots, candidates, policy.max_size, chosen, now)
    return list(chosen.values())


def _by_count(
    snapshots: list[Snapshot],
    candidates: list[Snapshot],
    limit: int,
    chosen: dict[str, Removal],
) -> None:
    for namespace in sorted({namespace for one in snapshots for namespace, _ in one.names}):

        def is_here(one: Snapshot, namespace: str = namespace) -> bool:
            removal = chosen.get(one.digest)
            gone = removal.names if removal else ()
            return any(name[0] == namespace and name not in gone for name in one.names)

        count = sum(map(is_here, snapshots))
        reason = f"the namespace {namespace} has {count} snapshots, limit {limit}"
        for one in [one for one in candidates if is_here(one)][: max(0, count - limit)]:
            before = chosen[one.digest].names if one.digest in chosen else ()
            names = before + tuple(name for name in one.names if name[0] == namespace)
            whole = set(names) == set(one.names)
            chosen[one.digest] = Removal(
                digest=one.digest,
                names=names,
                whole=whole,
                reclaimed=one.disk if whole else 0,
                reason=reason,
            )


def _by_size(
    snapshots: list[Snapshot],
    candidates: list[Snapshot],
    limit: int,
    chosen: dict[str, Removal],
    now: float,
) -> None:
    before = sum(one.disk for one in snapshots)
    total = before - sum(removal.reclaimed for removal in chosen.values())
    reason = f"the store holds {human_size(before)}, limit {human_size(limit)}"
    for one in candidates:
        if total <= limit:
            return
        if one.digest in chosen and chosen[one.digest].whole:
            continue
        if not one.names and now - one.used < ORPHAN_GRACE:
            continue
        chosen[one.digest] = _whole(one, reason)
        total -= one.disk


def _whole(one: Snapshot, reason: str) -> Removal:
    return Removal(
        digest=one.digest, names=one.names, whole=True, reclaimed=one.disk, reason=reason
    )
