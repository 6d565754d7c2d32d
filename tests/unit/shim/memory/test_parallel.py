from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shim.memory import parallel
from shim.memory.parallel import each


@pytest.fixture(autouse=True)
def _three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "threads", lambda: 3)


def test_results_are_in_the_order_of_the_items() -> None:
    first = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert first.wait(10)
        elif number == 50:
            first.set()
        return number * 2

    assert each(work, range(100)) == list(range(0, 200, 2))
    assert each(work, []) == []


def test_several_work_at_once() -> None:
    together = threading.Barrier(3)
    assert each(lambda _: together.wait(10) >= 0, range(3)) == [True, True, True]


def test_what_fails_first_is_raised_and_no_more_is_taken() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    def work(number: int) -> None:
        raise OSError(28, f"full at {number}")

    with pytest.raises(OSError, match="full at"):
        each(work, items())
    assert len(taken) <= 3


def test_an_item_that_cannot_be_made_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    with pytest.raises(ValueError, match="no second"):
        each(str, items())
