from __future__ import annotations

import os
from pathlib import Path

import pytest

from cri.store.files import Area
from cri.store.names import Names
from shim.errors import Refused

ONE = "sha256:" + "1" * 64
TWO = "sha256:" + "2" * 64


@pytest.fixture
def area(tmp_path: Path) -> Area:
    area = Area(tmp_path / "store", "node-1")
    area.create()
    return area


@pytest.fixture
def names(area: Area) -> Names:
    return Names(area)


def test_set_get_replace_remove(names: Names, area: Area) -> None:
    assert names.get("shop", "web") is None
    names.set("shop", "web", ONE)
    assert (area.root / "names/shop/web").read_text() == ONE + "\n"
    assert names.get("shop", "web") == ONE
    names.set("shop", "web", TWO)
    assert names.get("shop", "web") == TWO
    assert names.get("bank", "web") is None
    assert names.remove("shop", "web")
    assert not names.remove("shop", "web")
    assert names.get("shop", "web") is None


def test_all(names: Names) -> None:
    names.set("shop", "web", ONE)
    names.set("bank", "web", TWO)
    names.set("shop", "api", TWO)
    assert names.all() == (
        {("bank", "web"): TWO, ("shop", "api"): TWO, ("shop", "web"): ONE},
        [],
    )


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("..", "web"), ("shop", ".."), ("shop", "../../x"), ("", ""), ("/", "a")],
)
def test_no_path_gets_past(names: Names, namespace: str, name: str) -> None:
    for act in (
        lambda: names.get(namespace, name),
        lambda: names.set(namespace, name, ONE),
        lambda: names.remove(namespace, name),
    ):
        with pytest.raises(Refused, match="wanted 1 to"):
            act()


@pytest.mark.parametrize(
    "content",
    [b"", b"sha256:abc", ONE.encode() + b"x", b"\xff" * 71, b"../../etc", ONE.encode() * 2],
)
def test_an_entry_without_digest_is_refused(names: Names, area: Area, content: bytes) -> None:
    names.set("shop", "good", ONE)
    (area.root / "names/shop/web").write_bytes(content)
    with pytest.raises(Refused, match=r"the name shop/web in the store .* holds no digest"):
        names.get("shop", "web")
    found, problems = names.all()
    assert found == {("shop", "good"): ONE}
    assert len(problems) == 1


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "namespace link", "namespace file"])
def test_an_entry_of_another_kind_is_refused_and_the_others_are_listed(
    names: Names, area: Area, tmp_path: Path, kind: str
) -> None:
    names.set("good", "web", ONE)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "web").write_text(ONE)
    place = area.root / "names/shop"
    if kind == "namespace link":
        place.symlink_to(outside)
    elif kind == "namespace file":
        place.write_text(ONE)
    else:
        place.mkdir()
        if kind == "link":
            (place / "web").symlink_to(outside / "web")
        elif kind == "fifo":
            os.mkfifo(place / "web")
        else:
            (place / "web").mkdir()
    with pytest.raises(Refused, match="cannot read the name shop/web: a symbolic link"):
        names.get("shop", "web")
    found, problems = names.all()
    assert found == {("good", "web"): ONE}
    assert len(problems) == 1


def test_entries_that_are_no_names_are_problems(names: Names, area: Area) -> None:
    (area.root / "names/Not_A_Namespace").mkdir()
    (area.root / "names/shop").mkdir()
    (area.root / "names/shop/BAD").write_text(ONE)
    found, problems = names.all()
    assert found == {}
    assert problems[0] == "names/'Not_A_Namespace' in the store is not a namespace"
    assert problems[1].startswith("'BAD' is not a snapshot's name: wanted 1 to 128 lower-case")
    assert len(problems) == 2
