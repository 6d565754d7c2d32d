from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.units import human_duration, human_size, parse_duration, parse_size
from shim.errors import Refused


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1k", 1000),
        ("1K", 1000),
        ("1KB", 1000),
        ("1Ki", 1024),
        ("1KiB", 1024),
        ("1.5Gi", 1610612736),
        ("20G", 20_000_000_000),
        ("2 TiB", 2 << 40),
        (" 3Pi ", 3 << 50),
        ("0.1k", 100),
        ("1.0005k", 1000),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1X", "1.G", ".5G", "1e3", "1GG", "1 G i", "٣G", "1,5G", "9" * 19]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Refused, match=r"is not a size: wanted a number and a unit, such as 20Gi$"):
        parse_size(text)


@given(st.integers(0, 10**15), st.sampled_from(["", "K", "Mi", "G", "TiB", "PB"]))
def test_a_whole_size_is_exact(number: int, unit: str) -> None:
    power = " KMGTP".index(unit[0]) if unit else 0
    assert parse_size(f"{number}{unit}") == number * (1024 if "i" in unit else 1000) ** power


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("1h30m", 5400.0),
        ("7d", 604800.0),
        ("2w", 1209600.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        ("0s", 0.0),
        (" 1m ", 60.0),
    ],
)
def test_parse_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1y", "1h 30m", "1hm", "x1h", "1h!", "1.s", ".5s", "٣s", "1H"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(
        Refused, match=r"is not a duration: wanted a number and a unit, such as 30d$"
    ):
        parse_duration(text)


@given(st.text(max_size=40))
def test_any_text_is_a_size_and_a_duration_or_refused(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            value = parse(text)
        except Refused:
            continue
        assert value >= 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (102348, "99.9 KiB"),
        (102399, "100 KiB"),
        (1023487, "999 KiB"),
        (1023489, "1.0 MiB"),
        (506 << 20, "506 MiB"),
        (3 << 40, "3.0 TiB"),
        (1 << 62, "4096 PiB"),
    ],
)
def test_human_size(size: int, text: str) -> None:
    assert human_size(size) == text


@given(st.integers(0, 1 << 59))
def test_a_shown_size_is_near_and_short(size: int) -> None:
    text = human_size(size)
    assert re.fullmatch(r"[0-9]{1,4} B|[0-9]{1,2}\.[0-9] .iB|[0-9]{3} .iB", text)
    assert parse_size(text.removesuffix(" B")) == pytest.approx(size, rel=0.051)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (0.9, "0s"),
        (119.9, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (86400 * 2 - 1, "47h"),
        (86400 * 2, "2d"),
        (86400 * 365 * 2 - 1, "729d"),
        (86400 * 365 * 2, "2y"),
    ],
)
def test_human_duration(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text
