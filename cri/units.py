"""Sizes and durations as people read and write them. Pure functions."""

from __future__ import annotations

import re

from shim.errors import Refused

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*(|B|[KMGTP]B?|[KMGTP]iB?)", re.IGNORECASE)
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|w)")
_UNITS = "KMGTP"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_STEPS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"))


def parse_size(text: str) -> int:
    """Bytes of ``512Mi``, ``20G``, ``1.5GiB`` or ``1000``; Refused when it is none.

    ``K M G T P`` (with or without ``B``) count by 1000 and ``Ki Mi …`` by 1024, as Kubernetes
    quantities do.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Refused(f"{text[:80]!r} is not a size: wanted a number and a unit, such as 20Gi")
    unit = match[2].upper().removesuffix("B")
    base = 1024 if unit.endswith("I") else 1000
    power = _UNITS.index(unit[0]) + 1 if unit else 0
    whole, _, fraction = match[1].partition(".")
    factor: int = base**power
    scale: int = 10 ** len(fraction)
    return int(whole + fraction) * factor // scale


def parse_duration(text: str) -> float:
    """Seconds of ``30s``, ``1h30m``, ``7d`` or ``2w``; Refused when it is none.

    Go's notation, as elsewhere in containerd's configuration, and days and weeks.
    """
    text = text.strip()
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Refused(f"{text[:80]!r} is not a duration: wanted a number and a unit, such as 30d")
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def human_size(size: int) -> str:
    """``0 B``, ``1.5 KiB``, ``506 MiB``: three digits at most, by 1024."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1024
        # 999.5 would show as 1000, which the next unit says in fewer digits
        if value < 999.5 or unit == _UNITS[-1]:
            return f"{value:.{0 if value >= 99.95 else 1}f} {unit}iB"
    raise AssertionError


def human_duration(seconds: float) -> str:
    """``12s``, ``5m``, ``3h``, ``45d``, ``2y``: the largest unit that is at least two, whole."""
    seconds = max(0.0, seconds)
    for step, unit in _STEPS:
        if seconds >= 2 * step:
            return f"{int(seconds // step)}{unit}"
    return f"{int(seconds)}s"
