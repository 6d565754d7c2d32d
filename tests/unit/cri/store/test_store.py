from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from cri.store import Policy, Store
from shim.errors import Broken, Refused, Unfit
from tests.unit.cri.store.making import manifest, publish

PLAN = "0123456789abcdef" * 2
ABSENT = "sha256:" + "9" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", node="node-1")


@pytest.fixture
def digest(store: Store) -> str:
    digest = publish(store)
    store.set_name("shop", "web", digest)
    return digest


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_snapshot_that_is_no_folder_is_broken(
    store: Store, digest: str, tmp_path: Path, kind: str
) -> None:
    folder = store.folder(digest)
    folder.rename(tmp_path / "outside")
    if kind == "link":
        folder.symlink_to(tmp_path / "outside")
    else:
        folder.touch()
    for act in (
        lambda: store.resolve("shop", "web"),
        lambda: store.folder(digest),
        lambda: store.manifest(digest),
        lambda: store.set_name("shop", "api", digest),
    ):
        with pytest.raises(
            Broken, match=rf"^the snapshot {digest} in the store .* is not a folder"
        ):
            act()
    (one,) = store.snapshots()
    assert one.manifest is None
    assert "is not a folder" in one.problem


def test_an_absent_store(store: Store) -> None:
    for act in (
        lambda: store.resolve("shop", "web"),
        lambda: store.find("shop/web"),
        lambda: store.find("abcdef"),
        lambda: store.folder(ABSENT),
        store.snapshots,
        store.names,
        lambda: store.set_name("shop", "web", ABSENT),
        lambda: store.remove_name("shop", "web"),
        lambda: store.remove(ABSENT),
        lambda: store.pins(ABSENT),
        lambda: store.unpin(ABSENT),
        lambda: store.gc(Policy()),
    ):
        with pytest.raises(Unfit, match=rf"^there is no snapshot store at {store.root}: nothing"):
            act()
    with pytest.raises(Unfit):
        store.pin(ABSENT)


def test_snapshots_newest_first_with_all_that_is_known(store: Store, digest: str) -> None:
    store.set_name("bank", "api", digest)
    store.pin(digest)
    store.pin(digest, store.plan_pin(PLAN))
    newer = publish(store, "newer")
    later = time.time() + 60
    os.utime(store.folder(newer), (later, later))
    first, second = store.snapshots()
    assert first.digest == newer
    assert second.digest == digest
    assert second.names == (("bank", "api"), ("shop", "web"))
    assert second.pins == (f"node-1.{PLAN}", "user")
    assert second.pinned
    assert second.in_use == 1
    assert second.manifest is not None
    assert second.manifest.source.pod == "web-0"
    assert second.disk > 5000
    assert second.used >= second.published
    assert second.problem == ""
    assert first.in_use == 0
    assert not first.pinned
    assert store.get(digest) == second
    assert store.get(ABSENT) is None


def test_damaged_snapshots_are_listed(store: Store) -> None:
    altered, truncated = publish(store, "1"), publish(store, "2")
    (store.folder(altered) / "manifest.json").write_bytes(manifest({}))
    (store.folder(truncated) / "rootfs.tar").write_bytes(b"x")
    by_digest = {one.digest: one for one in store.snapshots()}
    assert by_digest[altered].manifest is None
    assert "manifest was altered: wanted " in by_digest[altered].problem
    assert by_digest[truncated].manifest is not None
    assert by_digest[truncated].problem == (
        "rootfs.tar was truncated or altered: wanted 0 bytes, found 1"
    )
    with pytest.raises(Broken, match="manifest was altered"):
        store.manifest(altered)


def test_foreign_entries_are_problems(store: Store) -> None:
    store.create()
    (store.root / "snapshots/lost+found").mkdir()
    assert store.snapshots() == []
    assert store.problems() == ["snapshots/'lost+found' in the store is not a snapshot's folder"]


def test_names_of_one_namespace(store: Store, digest: str) -> None:
    store.set_name("bank", "api", digest)
    assert store.names() == {("bank", "api"): digest, ("shop", "web"): digest}
    assert store.names("bank") == {("bank", "api"): digest}
    with pytest.raises(Refused, match="is not a namespace"):
        store.names("../x")


def test_set_name_tells_what_it_replaced(store: Store, digest: str) -> None:
    other = publish(store, "other")
    assert store.set_name("shop", "new", other) is None
    assert store.set_name("shop", "web", other) == digest
    assert store.resolve("shop", "web") == other


def test_set_name_replaces_a_spoiled_entry(store: Store, digest: str) -> None:
    (store.root / "names/shop/web").write_text("garbage")
    assert store.set_name("shop", "web", digest) is None
    assert store.resolve("shop", "web") == digest


def test_a_name_for_a_snapshot_that_goes_meanwhile_is_taken_back(
    store: Store, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = publish(store, "going")
    folder = store.folder(going)
    rename = os.rename

    def racing(source: str, target: str, **kwargs: int) -> None:
        if target in ("web", "new") and folder.exists():
            folder.rename(store.root / "tmp/gone")
        rename(source, target, **kwargs)

    monkeypatch.setattr(os, "rename", racing)
    with pytest.raises(Unfit, match=rf"^there is no snapshot {going}"):
        store.set_name("shop", "web", going)
    assert store.resolve("shop", "web") == digest
    (store.root / "tmp/gone").rename(folder)
    with pytest.raises(Unfit, match=rf"^there is no snapshot {going}"):
        store.set_name("shop", "new", going)
    assert store.names() == {("shop", "web"): digest}


def test_remove_name(store: Store, digest: str) -> None:
    store.remove_name("shop", "web")
    assert store.names() == {}
    assert store.folder(digest).is_dir()
    with pytest.raises(Unfit, match=r"^there is no snapshot web in the namespace shop$"):
        store.remove_name("shop", "web")


def test_a_restore_notes_its_use_and_a_persons_pin_does_not(store: Store, digest: str) -> None:
    store.pin(digest)
    assert list((store.root / "used").iterdir()) == []
    store.pin(digest, store.plan_pin(PLAN))
    (used,) = (store.root / "used").iterdir()
    assert used.name == digest[7:]
    os.utime(used, (1, 1))
    store.touch(digest)
    assert time.time() - used.stat().st_mtime < 60


def test_a_use_that_cannot_be_noted_stops_nothing(store: Store, digest: str) -> None:
    (store.root / "used").rmdir()
    (store.root / "used").write_text("in the way")
    store.pin(digest, store.plan_pin(PLAN))
    assert store.pins(digest) == [f"node-1.{PLAN}"]


def test_gc_removes_and_reports(store: Store, digest: str) -> None:
    other = publish(store, "other")
    store.set_name("shop", "api", other)
    store.pin(other, store.plan_pin(PLAN))
    store.unpin(other, store.plan_pin(PLAN))
    later = time.time() + 60
    os.utime(store.root / "used" / other[7:], (later, later))
    dry = store.gc(Policy(max_count=1), dry_run=True)
    assert [one.digest for one in dry.removals] == [digest]
    assert len(store.snapshots()) == 2
    assert store.gc(Policy(max_count=1)) == dry
    assert [one.digest for one in store.snapshots()] == [other]
    assert store.names() == {("shop", "api"): other}


def test_gc_takes_only_the_names_of_the_full_namespace(store: Store, digest: str) -> None:
    store.set_name("bank", "web", digest)
    other = publish(store, "other")
    store.set_name("shop", "api", other)
    later = time.time() + 60
    os.utime(store.folder(other), (later, later))
    (removal,) = store.gc(Policy(max_count=1)).removals
    assert not removal.whole
    assert store.names() == {("bank", "web"): digest, ("shop", "api"): other}


def test_gc_keeps_and_says_what_it_could_not_remove(
    store: Store, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.remove

    def pinned_meanwhile(self: Store, one: str, **kwargs: object) -> None:
        self.pin(one)
        real(self, one, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "remove", pinned_meanwhile)
    result = store.gc(Policy(max_size=0))
    assert result.removals == []
    assert result.kept == [f"the snapshot {digest} is pinned"]
    assert store.resolve("shop", "web") == digest


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_store_that_is_not_readable_or_writable() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store = Store(Path(folder) / "store")
        store.set_name("shop", "web", publish(store))
        os.seteuid(65534)
        try:
            for act in (lambda: store.resolve("shop", "web"), lambda: publish(store, "b")):
                with pytest.raises(Unfit, match=r" cannot .*: permission denied for user 65534$"):
                    act()
        finally:
            os.seteuid(0)
