"""Every sentence that docs/troubleshooting.md quotes is one that the code can say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/troubleshooting.md"
GAP = "\0"


def texts(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
        elif isinstance(part, ast.JoinedStr):
            yield "".join(
                str(one.value) if isinstance(one, ast.Constant) else GAP for one in part.values
            )


@cache
def said() -> str:
    files = [*(REPOSITORY / "cri").rglob("*.py"), *(REPOSITORY / "shim").rglob("*.py")]
    return "\n".join(text for file in files for text in texts(ast.parse(file.read_bytes())))


def quoted() -> list[str]:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [re.match(r"\| `([^`]+)` \|", row) for row in rows]
    return [
        cell[1] for cell in cells if cell and not cell[1].startswith(("podthaw ", "journalctl"))
    ]


def test_the_page_quotes_many() -> None:
    assert len(quoted()) > 40


@pytest.mark.parametrize("sentence", quoted())
def test_the_code_says_it(sentence: str) -> None:
    pieces = [piece.strip(" ,:.`") for piece in sentence.split("…")]
    missing = [piece for piece in pieces if piece not in said()]
    assert not missing
