from __future__ import annotations

from pathlib import Path

import pytest

from shim.memory.compare import Comparison
from shim.memory.files import SourceFiles
from shim.memory.layout import Candidate
from shim.memory.model import PAGE
from shim.memory.pieces import Piece

BASE = 0x7F0000000000 + 5 * PAGE


def _contents(tmp_path: Path, files: SourceFiles, texts: list[str]) -> dict[int, list[Piece]]:
    """Processes 0, 1 …; a letter for each page, ``.`` for one that is not there."""
    found = {}
    for pid, text in enumerate(texts):
        path = tmp_path / f"pages-{pid}.img"
        path.write_bytes(b"".join(letter.encode() * PAGE for letter in text.replace("0", "\0")))
        number = files.open(path, own=False)
        found[pid] = [
            Piece(BASE + n * PAGE, PAGE, number, n * PAGE)
            for n, letter in enumerate(text)
            if letter != "."
        ]
    return found


def _compare(tmp_path: Path, one: str, other: str) -> list[tuple[int, int]] | None:
    """The ranges of pages that differ."""
    end = BASE + len(one) * PAGE
    with SourceFiles() as files:
        compare = Comparison(_contents(tmp_path, files, [one, other]), files)
        found = compare(
            Candidate(0, 0, BASE, end, len(one)), Candidate(1, 0, BASE, end, len(other))
        )
    if found is None:
        return None
    return [((low - BASE) // PAGE, (high - BASE) // PAGE) for low, high in found]


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("A" * 40, "A" * 40, []),
        ("A" * 40, "B" + "A" * 37 + "CC", [(0, 1), (38, 40)]),
        ("A" * 40, "." + "A" * 39, [(0, 1)]),
        ("." + "A" * 39, "A" * 40, [(0, 1)]),
        ("." + "A" * 39, "0" + "A" * 39, []),
        ("A" * 600, "A" * 250 + "BBBB" + "A" * 346, [(250, 254)]),
        ("A" * 40, "A" * 30 + "B" * 10, [(30, 40)]),
        ("A" * 40, "A" * 29 + "B" * 11, None),
    ],
)
def test_what_differs_is_found(
    tmp_path: Path, one: str, other: str, wanted: list[tuple[int, int]] | None
) -> None:
    assert _compare(tmp_path, one, other) == wanted


def test_more_than_32_mib_are_too_many(tmp_path: Path) -> None:
    text = "A" * 40000
    assert _compare(tmp_path, text, "B" * 8192 + text[8192:]) == [(0, 8192)]
    assert _compare(tmp_path, text, "B" * 8193 + text[8193:]) is None


def test_the_same_bytes_of_a_file_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SourceFiles() as files:
        pieces = _contents(tmp_path, files, ["A" * 40])[0]
        monkeypatch.setattr(files, "read", None)
        candidate = Candidate(0, 0, BASE, BASE + 40 * PAGE, 40)
        assert Comparison({0: pieces, 1: pieces}, files)(candidate, candidate) == ()
