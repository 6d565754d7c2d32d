from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import svg

SVG = "{http://www.w3.org/2000/svg}"


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_ticks_begin_at_zero_and_reach_the_largest_value_in_few_even_steps(value: float) -> None:
    steps = svg.ticks(value)
    assert steps[0] == 0
    assert steps[-1] >= value * 0.999
    assert 2 <= len(steps) <= 8
    assert steps[1] <= value * 1.001


def test_no_value_at_all_still_has_an_axis() -> None:
    assert svg.ticks(0) == [0.0, 1.0]


def test_bars_are_as_long_as_their_values() -> None:
    axis = svg.Axis("seconds")
    rows = [svg.Bar("a", (1.0, 1.0)), svg.Bar("b", (4.0,))]
    root = ET.fromstring(svg.bars("title", axis, rows, mark=("a limit", 2.0)))  # noqa: S314 - our own
    lengths = [float(one.attrib["width"]) for one in list(root.iter(f"{SVG}rect"))[1:]]
    assert lengths[0] == pytest.approx(lengths[1], abs=0.2)
    assert lengths[2] == pytest.approx(4 * lengths[0], abs=0.5)
    assert {"title", "a", "b", "seconds", "a limit"} <= {
        one.text for one in root.iter(f"{SVG}text")
    }


def test_lines_start_from_a_y_axis_at_zero() -> None:
    series = [svg.Series("one <&>", [(0.25, 1.0), (8, 2.0)]), svg.Series("two", [(8, 2.0)], 1)]
    drawn = svg.lines("title", svg.Axis("GiB"), svg.Axis("seconds"), series)
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    first = root.find(f"{SVG}polyline")
    assert first is not None
    low, high = (float(pair.split(",")[1]) for pair in first.attrib["points"].split())
    floor = max(float(one.attrib["y1"]) for one in root.findall(f"{SVG}line"))
    assert floor - 5 - high == pytest.approx(2 * (floor - 5 - low), rel=0.05)
    names = {one.text: float(one.attrib["y"]) for one in root.iter(f"{SVG}text")}
    assert abs(names["one <&>"] - names["two"]) >= 15, "the two names lie over each other"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (0.0512, "0.0512"), (1.5, "1.5"), (12.34, "12.3"), (1030.1, "1030")],
)
def test_numbers_have_three_digits_that_say_something(value: float, text: str) -> None:
    assert svg._number(value) == text
