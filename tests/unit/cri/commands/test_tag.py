from __future__ import annotations

from cri.store import Store
from tests.unit.cri.commands.conftest import Podthaw
from tests.unit.cri.store.making import publish


def test_a_new_name_in_the_same_and_in_another_namespace(
    podthaw: Podthaw, store: Store, web: str
) -> None:
    assert podthaw("tag", "shop/web", "v2") == (0, f"shop/v2 is {web}\n", "")
    assert podthaw("tag", "web", "v3", "-n", "shop") == (0, f"shop/v3 is {web}\n", "")
    assert podthaw("tag", web[:15], "bank/web") == (0, f"bank/web is {web}\n", "")
    assert podthaw("tag", web, "v4", "-n", "lab") == (0, f"lab/v4 is {web}\n", "")
    assert sorted(store.names()) == [
        ("bank", "web"),
        ("lab", "v4"),
        ("shop", "v2"),
        ("shop", "v3"),
        ("shop", "web"),
    ]


def test_a_moved_name_says_so(podthaw: Podthaw, store: Store, web: str) -> None:
    other = publish(store, "other")
    assert podthaw("tag", other, "shop/web") == (0, f"shop/web is {other}, before {web}\n", "")
    assert podthaw("tag", other, "shop/web") == (0, f"shop/web is {other}\n", "")
    assert store.resolve("shop", "web") == other


def test_a_name_needs_a_namespace(podthaw: Podthaw, web: str) -> None:
    assert podthaw("tag", web, "v2") == (
        1,
        "",
        "podthaw: v2 needs a namespace: wanted NAMESPACE/NAME\n",
    )


def test_bad_names(podthaw: Podthaw, store: Store, web: str) -> None:
    for name in ("shop/../x", "../x", "shop/a/b", "shop/", "/x", "UPPER"):
        status, out, err = podthaw("tag", "shop/web", name)
        assert (status, out) == (1, "")
        assert err.startswith("podthaw: '")
    assert store.names() == {("shop", "web"): web}
