from __future__ import annotations

import time

import pytest

from shim.times import Times


def test_parts_are_noted_with_their_begin() -> None:
    times = Times()
    with times.phase("check"):
        time.sleep(0.01)
    with times.phase("criu"), times.part("runc"):
        time.sleep(0.01)
    assert list(times.phases) == ["check", "criu"]
    assert set(times.stages) == {"load", "check", "runc", "criu"}
    assert times.phases["check"] == times.stages["check"][1] >= 0.01
    runc, criu = times.stages["runc"], times.stages["criu"]
    assert criu[0] <= runc[0]
    assert runc[0] + runc[1] <= criu[0] + criu[1] + 1e-5
    assert times.began <= time.monotonic()


def test_a_part_that_fails_is_noted_too() -> None:
    times = Times()
    with pytest.raises(ValueError, match="no"), times.phase("rootfs"):
        raise ValueError("no")
    assert "rootfs" in times.phases
