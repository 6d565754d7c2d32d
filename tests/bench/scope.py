"""How much of the restores is measured: all of it, or as much as fits into two minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How much is measured."""

    sizes: Sequence[int]
    """Mebibytes of the server's memory."""
    rounds: Callable[[int], int]
    """Of a size: starts of every contender with a warm cache."""
    cold_sizes: Sequence[int]
    cold_rounds: int
    replicas: Sequence[int]
    replica_size: int
    replica_rounds: int
    replica_contenders: Sequence[str]
    start_size: int
    start_pairs: int
    start_contenders: Sequence[str]


FULL = Scope(
    sizes=(256, 1024, 2048, 4096, 8192),
    rounds=lambda size: 6 if size <= 1024 else 4 if size <= 2048 else 2,
    cold_sizes=(1024, 8192),
    cold_rounds=2,
    replicas=(1, 4, 8),
    replica_size=1024,
    replica_rounds=2,
    replica_contenders=("runc", "eager", "mapped"),
    start_size=256,
    start_pairs=15,
    start_contenders=("eager", "mapped"),
)
QUICK = Scope(
    sizes=(256, 1024),
    rounds=lambda _size: 2,
    cold_sizes=(1024,),
    cold_rounds=1,
    replicas=(1, 4),
    replica_size=1024,
    replica_rounds=1,
    replica_contenders=("runc", "mapped"),
    start_size=256,
    start_pairs=3,
    start_contenders=("mapped",),
)
