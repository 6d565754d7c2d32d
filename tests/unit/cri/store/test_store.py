from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cri.store import Found, Policy, Store
from shim.errors import Broken, PodthawError, Refused, Unfit
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


def test_resolve_name_and_pinned_digest(store: Store, digest: str) -> None:
    assert store.resolve("shop", "web") == digest
    assert store.resolve("shop", f"web@{digest}") == digest


def test_resolve_tells_wanted_and_found(store: Store, digest: str) -> None:
    with pytest.raises(Unfit) as caught:
        store.resolve("shop", f"web@{ABSENT}")
    assert str(caught.value) == (
        f"the snapshot web in the namespace shop is another one: wanted {ABSENT}, found {digest}"
    )


def test_another_namespaces_snapshot_is_never_resolved(store: Store, digest: str) -> None:
    with pytest.raises(Unfit, match=r"^there is no snapshot web in the namespace bank$"):
        store.resolve("bank", "web")
    for reference in ("shop/web", "../shop/web", digest, digest[7:] + "/", f"@{digest}"):
        with pytest.raises(Refused, match="is not a snapshot's name"):
            store.resolve("bank", reference)
    with pytest.raises(Unfit, match=r"^there is no snapshot "):
        store.resolve("bank", digest[7:])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.text(max_size=100), st.text(max_size=100))
def test_no_text_resolves_to_what_it_does_not_name(
    store: Store, namespace: str, reference: str
) -> None:
    publish_once(store)
    with pytest.raises((Unfit, Refused)):
        store.resolve(namespace, reference)


def publish_once(store: Store) -> None:
    if not store.root.exists():
        store.set_name("a-namespace-that-is-not-drawn", "web", publish(store))


def test_a_name_whose_snapshot_is_gone(store: Store, digest: str) -> None:
    store.folder(digest).rename(store.root / "elsewhere")
    with pytest.raises(Unfit, match=rf"^there is no snapshot {digest} in the store"):
        store.resolve("shop", "web")
    assert store.problems() == [f"the name shop/web points to {digest}, which is not in the store"]


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


def test_find(store: Store, digest: str) -> None:
    digits = digest[7:]
    named = Found(digest, "shop", "web")
    assert store.find("shop/web") == named
    assert store.find("web", "shop") == named
    assert store.find("shop/web", "shop") == named
    assert store.find(f"shop/web@{digest}") == named
    for reference in (digest, digits, digits[:6], digest[:13]):
        assert store.find(reference) == Found(digest)
        assert store.find(reference, "bank") == Found(digest)


def test_find_prefers_a_name_in_the_namespace_to_digits(store: Store, digest: str) -> None:
    other = publish(store, "other")
    store.set_name("shop", digest[7:15], other)
    assert store.find(digest[7:15], "shop") == Found(other, "shop", digest[7:15])
    assert store.find(digest[7:15]) == Found(digest)


@pytest.mark.parametrize(
    ("reference", "namespace", "kind", "sentence"),
    [
        ("web", None, Refused, r"^web needs a namespace: wanted NAMESPACE/NAME, found shop/web$"),
        ("api", None, Unfit, r"^there is no snapshot api in any namespace$"),
        ("api", "shop", Unfit, r"^there is no snapshot api in the namespace shop$"),
        ("bank/web", "shop", Refused, r"^'bank/web' is not in the namespace shop$"),
        ("bank/web", None, Unfit, r"^there is no snapshot web in the namespace bank$"),
        ("a/b/c", None, Refused, r"^'b/c' is not a snapshot's name"),
        ("/web", None, Refused, r"^'' is not a namespace"),
        ("shop/", None, Refused, r"^'' is not a snapshot's name"),
        ("", None, Refused, r"^'' is not a snapshot's name"),
        ("sha256:abc", None, Refused, r"too short: wanted 6 digits or more, found 3$"),
        ("sha256:xyzxyz", None, Refused, r"^'sha256:xyzxyz' is not a snapshot's name"),
        ("../../etc/passwd", None, Refused, r"^'\.\.' is not a namespace"),
    ],
)
def test_what_is_not_found(
    store: Store,
    digest: str,
    *,
    reference: str,
    namespace: str | None,
    kind: type[PodthawError],
    sentence: str,
) -> None:
    assert store.resolve("shop", "web") == digest
    with pytest.raises(kind, match=sentence):
        store.find(reference, namespace)


def test_digits_of_none_and_of_several(store: Store) -> None:
    store.create()
    for last in "01":
        (store.root / "snapshots" / ("abcdef" + "0" * 57 + last)).mkdir()
    with pytest.raises(Refused) as caught:
        store.find("abcdef")
    assert str(caught.value) == (
        "2 snapshots begin with sha256:abcdef: wanted one, found abcdef000000, abcdef000000"
    )
    with pytest.raises(Unfit, match=r"^there is no snapshot sha256:ffffff in the store"):
        store.find("ffffff")
    assert store.find("abcdef" + "0" * 57 + "1").digest.endswith("1")


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
