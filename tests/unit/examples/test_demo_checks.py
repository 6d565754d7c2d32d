from __future__ import annotations

import pytest

from examples.demo.checks import meaning

GOOD = [[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]


def test_alike_texts_near_and_unlike_ones_far() -> None:
    assert meaning(GOOD) == ""


@pytest.mark.parametrize(
    ("embeddings", "why"),
    [
        (GOOD[:2], "2 vectors for 3 texts"),
        ([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "not of length 1"),
        ([GOOD[0], GOOD[2], GOOD[1]], "similarity"),
        ([GOOD[0]] * 3, "similarity 1.00, unlike ones 1.00"),
    ],
)
def test_what_no_model_would_answer(embeddings: list[list[float]], why: str) -> None:
    assert why in meaning(embeddings)
