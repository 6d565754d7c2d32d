"""A whole build/bench.json of a machine that meets every goal, to be changed by the tests."""

from __future__ import annotations

from typing import Any


def run(contender: str, running: float, **more: Any) -> dict[str, Any]:
    """One start."""
    return {
        "contender": contender,
        "before": 0.2,
        "created": 0.03,
        "running": running,
        "first_answer": running + 0.01,
        "touched": running + 0.05,
        "first_touch": "/touch/0.05/64/read",
        "last_touch": "read",
        "phases": {"check": 0.001, "criu": 0.02} if contender in ("eager", "mapped") else {},
        **more,
    }


def size(mib: int, *, stock: float, mapped: float) -> dict[str, Any]:
    """Two contenders at one size, warm and cold, each touch once."""
    capture = {"frozen": 1.0, "seconds": 2.0, "bytes": mib << 20, "disk_write": float(mib << 20)}
    return {
        "mib": mib,
        "captures": {"runc": capture, "mapped": capture},
        "warm": [
            run(name, seconds, last_touch=last)
            for name, seconds in (("runc", stock), ("mapped", mapped))
            for last in ("read", "write")
        ],
        "cold": [
            run(name, seconds, first_touch=touch, read_file=4.0, left_in_cache=0.0, known=known)
            for name, seconds in (("runc", stock * 2), ("mapped", mapped))
            for touch in ("/touch/0.05/64/read", "/touch/0.05/1/read")
            for known in (True, False)
        ],
    }


def together(contender: str, count: int, running: float, own: int) -> dict[str, Any]:
    """So many replicas at once."""
    memory = {"anonymous": own, "page_tables": 1 << 20, "resident": 9 << 20, "proportional": own}
    return {
        "contender": contender,
        "count": count,
        "running": [running] * count,
        "first_answer": [running + 0.01] * count,
        "memory": [memory] * count,
    }


def report() -> dict[str, Any]:
    """The content of build/bench.json."""
    return {
        "time": "2026-11-24T15:05:00+00:00",
        "kernel": "6.18",
        "cpus": 2,
        "memory_gib": 23.4,
        "load_before": 0.1,
        "restores": {
            "versions": {"runc": "1.3.6", "criu": "4.2.1"},
            "sizes": [
                size(256, stock=0.4, mapped=0.05),
                size(1024, stock=1.2, mapped=0.05),
                size(8192, stock=8.0, mapped=0.06),
            ],
            "replicas": {
                "mib": 1024,
                "runs": [
                    together(name, count, seconds * count, own)
                    for name, seconds, own in (("runc", 0.9, 1 << 30), ("mapped", 0.05, 1 << 20))
                    for count in (1, 8)
                ],
            },
            "starts": {"mapped": {"empty": [0.05, 0.06], "restored": [0.09, 0.1]}},
            "failures": [],
        },
        "embeddings": {
            "cold_start_s": 0.1,
            "cold_first_answer_s": 8.0,
            "restores": [{"outcome": "restored", "start_s": 0.2, "first_answer_s": 0.3}],
            "restores_together": [{"outcome": "restored", "start_s": 0.3, "first_answer_s": 0.4}],
            "ratio": 26.7,
        },
        "proxy": {
            "resident_mb": 31.6,
            "series": [
                {
                    "name": "Version, 100 calls/s",
                    "direct_p50_ms": 1.0,
                    "proxy_p50_ms": 1.5,
                    "direct_p99_ms": 2.0,
                    "proxy_p99_ms": 3.0,
                }
            ],
        },
        "shim": {
            "series": [
                {"name": "runc --version", "direct_ms": 4.0, "shim_ms": 14.0, "added_ms": 10.0}
            ]
        },
    }
