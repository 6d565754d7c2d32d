from __future__ import annotations

import pytest

from shim.cuda.calls import DriverError, in_words, too_old


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("lock", 600, "did not come to an end in time"),
        ("checkpoint", 801, "managed memory"),
        ("checkpoint", 801, "below driver 610"),
        ("restore", 801, "driver 580 or newer"),
        ("restore", 1, "do not match"),
        ("restore", 2, "too little free memory"),
        ("state", 805, "Multi-Process Service"),
        ("init", 100, "finds no GPU"),
        ("unlock", 401, "another program"),
    ],
)
def test_a_refusal_in_words(call: str, code: int, words: str) -> None:
    said = in_words(DriverError(call, code, "CUDA_ERROR_X", "own words"))
    assert words in said
    assert said.endswith("(CUDA_ERROR_X: own words)")


def test_an_unknown_refusal_is_the_drivers_own() -> None:
    assert in_words(DriverError("lock", 12345, "", "own words")) == "own words"


def test_the_age_of_a_driver() -> None:
    assert "found one for CUDA 12.4" in str(too_old(12040))
