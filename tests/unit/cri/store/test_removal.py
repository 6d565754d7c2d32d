from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cri.store import Force, Store
from shim.errors import Refused, Unfit
from tests.unit.cri.store.making import publish

PLAN = "0123456789abcdef" * 2
ALL = Force(names=True, pin=True, use=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", node="node-1")


def everything(store: Store) -> list[str]:
    return sorted(
        str(path.relative_to(store.root)) for path in store.root.rglob("*") if not path.is_dir()
    )


def test_nothing_is_left(store: Store) -> None:
    digest = publish(store)
    store.set_name("shop", "web", digest)
    store.pin(digest, store.plan_pin(PLAN))
    store.unpin(digest, store.plan_pin(PLAN))
    store.remove(digest, names=[("shop", "web")])
    assert everything(store) == []
    assert list((store.root / "pins").iterdir()) == []
    assert list((store.root / "tmp").iterdir()) == []
    with pytest.raises(Unfit, match=rf"^there is no snapshot {digest} in the store {store.root}$"):
        store.remove(digest)


def test_what_has_a_name_stays(store: Store) -> None:
    digest = publish(store)
    store.set_name("shop", "web", digest)
    store.set_name("bank", "api", digest)
    before = everything(store)
    with pytest.raises(Refused, match=rf"^the snapshot {digest} is named bank/api, shop/web$"):
        store.remove(digest)
    with pytest.raises(Refused, match=rf"^the snapshot {digest} is named bank/api$"):
        store.remove(digest, names=[("shop", "web")])
    assert everything(store) == before
    store.remove(digest, force=Force(names=True))
    assert everything(store) == []


def test_what_is_pinned_stays(store: Store) -> None:
    digest = publish(store)
    store.pin(digest)
    with pytest.raises(Refused, match=rf"^the snapshot {digest} is pinned$"):
        store.remove(digest, force=Force(names=True, use=True))
    store.remove(digest, force=Force(pin=True))
    assert everything(store) == []


def test_what_is_in_use_stays(store: Store) -> None:
    digest = publish(store)
    store.pin(digest, f"node-2.{PLAN}")
    with pytest.raises(
        Refused, match=rf"^the snapshot {digest} is in use by the restore node-2\.{PLAN}$"
    ):
        store.remove(digest, force=Force(names=True, pin=True))
    store.pin(digest, f"node-3.{PLAN}")
    with pytest.raises(Refused, match=rf"the restore node-2\.{PLAN} and 1 more$"):
        store.remove(digest)
    store.remove(digest, force=Force(use=True))
    assert everything(store) == []


def test_names_of_other_snapshots_stay(store: Store) -> None:
    one, two = publish(store, "1"), publish(store, "2")
    store.set_name("shop", "one", one)
    store.set_name("shop", "two", two)
    store.remove(one, names=[("shop", "one"), ("shop", "two")])
    assert store.names() == {("shop", "two"): two}


def test_no_pin_can_come_while_it_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = publish(store)
    other = Store(store.root, node="node-2")
    tried = []
    rename = os.rename

    def racing(source: str, target: str, **kwargs: int) -> None:
        if target.endswith(".removed"):
            with pytest.raises(Unfit, match="is being removed"):
                other.pin(digest, other.plan_pin(PLAN))
            with pytest.raises(Unfit, match="is being removed"):
                other.set_name("shop", "web", digest)
            tried.append(target)
        rename(source, target, **kwargs)

    monkeypatch.setattr(os, "rename", racing)
    store.remove(digest)
    assert len(tried) == 1
    assert everything(store) == []


@pytest.mark.parametrize("what", ["pin", "name"])
def test_on_a_full_disk_one_that_was_pinned_or_named_meanwhile_comes_back(
    store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    digest = publish(store)
    other = Store(store.root, node="node-2")
    rename, mkdir = os.rename, os.mkdir
    full = [True]

    def no_room(*args: object, **kwargs: object) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mkdir(*args, **kwargs)  # type: ignore[arg-type]

    def racing(source: str, target: str, **kwargs: int) -> None:
        if target.endswith(".removed"):
            full[0] = False
            if what == "pin":
                other.pin(digest)
            else:
                other.set_name("shop", "web", digest)
        rename(source, target, **kwargs)

    monkeypatch.setattr(os, "mkdir", no_room)
    monkeypatch.setattr(os, "rename", racing)
    with pytest.raises(Refused, match=r"is pinned|is named shop/web"):
        store.remove(digest)
    monkeypatch.undo()
    found = store.get(digest)
    assert found is not None
    assert found.problem == ""


def test_a_full_disk_does_not_stop_a_removal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = publish(store)
    real = os.open

    def no_room(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", no_room)
    store.remove(digest)
    monkeypatch.undo()
    assert everything(store) == []


def test_two_remove_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = publish(store)
    other = Store(store.root, node="node-2")
    rename = os.rename

    def racing(source: str, target: str, **kwargs: int) -> None:
        if target.endswith(".removed"):
            monkeypatch.undo()
            other.remove(digest)
        rename(source, target, **kwargs)

    monkeypatch.setattr(os, "rename", racing)
    with pytest.raises(Unfit, match="was removed by another node"):
        store.remove(digest)
    assert everything(store) == []


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_can_be_removed_and_is_not_followed(
    store: Store, tmp_path: Path, kind: str
) -> None:
    store.create()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    entry = store.root / "snapshots" / ("9" * 64)
    if kind == "link":
        entry.symlink_to(outside)
    else:
        entry.write_text("x")
    store.remove("sha256:" + "9" * 64)
    assert everything(store) == []
    assert (outside / "precious").read_text() == "x"


def test_links_inside_a_snapshot_are_removed_and_not_followed(store: Store, tmp_path: Path) -> None:
    digest = publish(store)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (store.folder(digest) / "images/link").symlink_to(outside)
    store.remove(digest)
    assert (outside / "precious").read_text() == "x"
