from __future__ import annotations

from typing import cast

from tests.bench.contender import Contender
from tests.bench.restores import turned


def test_each_contender_is_the_first_one_in_turn() -> None:
    contenders = cast("list[Contender]", ["a", "b", "c"])
    assert [turned(contenders, number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert sorted(cast("list[str]", turned(contenders, 2))) == ["a", "b", "c"]
    assert turned([], 3) == []
