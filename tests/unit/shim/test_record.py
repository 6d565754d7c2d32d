"""Records are dataclasses for everybody but the interpreter that starts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from shim.record import changed, field, record


@record(kw_only=True, frozen=True)
class Frozen:
    name: str
    size: int = 3
    tags: list[str] = field(default_factory=list)


@record()
class Pair:
    left: int
    right: int = 2


def test_fields_defaults_and_equality() -> None:
    one = Frozen(name="a")
    assert (one.name, one.size, one.tags) == ("a", 3, [])
    assert one == Frozen(size=3, name="a")
    assert one != Frozen(name="b")
    assert one != "a"
    assert repr(one) == "Frozen(name='a', size=3, tags=[])"
    assert Pair(1) == Pair(1, 2) == Pair(left=1, right=2)


def test_a_default_that_is_made_is_no_others() -> None:
    one, other = Frozen(name="a"), Frozen(name="b")
    one.tags.append("x")
    assert other.tags == []


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="lacks the field name"):
        Frozen()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no field other"):
        Frozen(name="a", other=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="more than its fields"):
        Pair(1, left=2)  # type: ignore[misc]
    with pytest.raises(TypeError, match="more than its fields"):
        Pair(1, 2, 3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Frozen("a")  # type: ignore[misc]


def test_a_frozen_one_stays_as_it_is() -> None:
    one = Frozen(name="a")
    with pytest.raises(AttributeError):
        one.name = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del one.name
    pair = Pair(1)
    pair.right = 5
    assert pair == Pair(1, 5)
    with pytest.raises(TypeError):
        hash(pair)


def test_changed_makes_another_one() -> None:
    one = Frozen(name="a", tags=["x"])
    assert changed(one, name="b") == Frozen(name="b", tags=["x"])
    assert one.name == "a"


def test_the_module_dataclasses_takes_them_for_its_own() -> None:
    one = Frozen(name="a", tags=["x"])
    assert dataclasses.asdict(one) == {"name": "a", "size": 3, "tags": ["x"]}
    assert dataclasses.replace(one, size=4) == Frozen(name="a", size=4, tags=["x"])
    assert [entry.name for entry in dataclasses.fields(Frozen)] == ["name", "size", "tags"]
    assert [entry.type for entry in dataclasses.fields(Frozen)] == ["str", "int", "list[str]"]
    assert dataclasses.is_dataclass(Pair)
    assert dataclasses.replace(Pair(1), left=3) == Pair(3, 2)


def test_no_record_needs_the_module_dataclasses() -> None:
    code = "import sys; import shim.record; assert 'dataclasses' not in sys.modules"
    root = str(Path(__file__).parents[3])
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=root)
