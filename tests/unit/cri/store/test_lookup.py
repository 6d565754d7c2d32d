from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cri.store import Found, Store
from shim.errors import PodthawError, Refused, Unfit
from tests.unit.cri.store.making import publish

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
