from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from tests.bench import pictures
from tests.unit.bench.results import report

PAGE = Path(__file__).parents[3] / "docs/benchmarks.md"


def test_every_picture_is_named_on_the_page_and_is_xml() -> None:
    text = PAGE.read_text()
    drawn = pictures.draw(report())
    assert len(drawn) == 4
    for name, picture in drawn.items():
        assert f"({name})" in text
        root = ET.fromstring(picture)  # noqa: S314 - our own
        assert root.tag.endswith("svg")


def test_without_figures_there_are_no_pictures() -> None:
    assert pictures.draw({"cpus": 2}) == {}
