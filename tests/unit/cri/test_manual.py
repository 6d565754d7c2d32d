from __future__ import annotations

from pathlib import Path

import pytest

from cri import manual
from cri.cli import COMMANDS

PAGE = Path(__file__).resolve().parents[3] / "docs/cli.md"


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == manual.markdown(), "run `python -m cri.manual > docs/cli.md`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_with_usage_and_example(name: str) -> None:
    text = manual.markdown()
    assert f"| [`{name}`](#podthaw-{name}) | {COMMANDS[name].help} |\n" in text
    section = text.split(f"\n## podthaw {name}\n")[1].split("\n## ")[0]
    assert f"\n    podthaw {name}" in section
    assert "\nExample:\n\n    podthaw " in section
    assert "SUPPRESS" not in section
