from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import tables
from tests.unit.bench.results import report

PAGE = Path(__file__).parents[3] / "docs/benchmarks.md"


def test_the_page_has_a_place_for_every_section() -> None:
    text = PAGE.read_text()
    once = tables.rewrite(text, tables.sections(report()))
    assert "| runc restore | 0.400 s | 1.200 s | 8.000 s |" in once
    assert tables.rewrite(once, tables.sections(report())) == once


def test_text_outside_of_the_marks_stays() -> None:
    page = "before\n<!-- bench: one -->\nold\nolder\n<!-- /bench -->\nafter\n"
    wanted = "before\n<!-- bench: one -->\nnew\n<!-- /bench -->\nafter\n"
    assert tables.rewrite(page, {"one": "new\n"}) == wanted


@pytest.mark.parametrize("sections", [{}, {"one": "x", "two": "y"}])
def test_a_page_and_sections_that_do_not_match_are_told(sections: dict[str, str]) -> None:
    page = "<!-- bench: one -->\nold\n<!-- /bench -->\n"
    with pytest.raises(LookupError, match=r"one|two"):
        tables.rewrite(page, sections)


def test_the_page_can_be_written_without_any_figure() -> None:
    sections = tables.sections({"cpus": 2})
    assert sections["embeddings"] == "Not measured."
    assert set(sections) == set(tables.sections(report()))


def test_figures_that_lack_are_dashes() -> None:
    found = tables.Results(report())
    assert "| crun restore | - | - | - |" in tables.by_size(found, "running")


def test_the_machine_is_told_without_what_a_distribution_adds() -> None:
    value = report() | {"kernel": "6.18.44-cloud-1"}
    value["restores"]["versions"] = {"runc": "1.3.6+ds1", "crun": ""}
    assert "kernel 6.18, runc 1.3.6; load average" in tables.machine(value)
