from __future__ import annotations

import pytest

from cri.store import Store
from tests.unit.cri.commands.conftest import Podthaw
from tests.unit.cri.store.making import publish

WHO = "node-9." + "0123456789abcdef" * 2


def test_the_last_name_takes_the_snapshot_along(podthaw: Podthaw, store: Store, web: str) -> None:
    store.set_name("bank", "web", web)
    assert podthaw("remove", "bank/web") == (0, "removed the name bank/web\n", "")
    assert store.names() == {("shop", "web"): web}
    assert podthaw("rm", "web", "-n", "shop") == (0, f"removed shop/web {web}\n", "")
    assert store.snapshots() == []


def test_several(podthaw: Podthaw, store: Store, web: str) -> None:
    other = publish(store, "other")
    assert podthaw("rm", "shop/web", other, other[:16]) == (
        0,
        f"removed shop/web {web}\nremoved {other}\n",
        "",
    )
    assert store.snapshots() == []


def test_a_digest_with_names_needs_force(podthaw: Podthaw, store: Store, web: str) -> None:
    store.set_name("bank", "web", web)
    assert podthaw("rm", web) == (
        1,
        "",
        f"podthaw: the snapshot {web} is named bank/web, shop/web\n",
    )
    assert podthaw("rm", "-f", web) == (0, f"removed {web}\n", "")
    assert store.names() == {}


def test_a_name_with_force_takes_the_others_along(podthaw: Podthaw, store: Store, web: str) -> None:
    store.set_name("bank", "web", web)
    assert podthaw("rm", "--force", "shop/web") == (0, f"removed shop/web {web}\n", "")
    assert store.names() == {}
    assert store.snapshots() == []


def test_a_pinned_one_needs_force(podthaw: Podthaw, store: Store, web: str) -> None:
    store.pin(web)
    assert podthaw("rm", "shop/web") == (1, "", f"podthaw: the snapshot {web} is pinned\n")
    assert store.resolve("shop", "web") == web
    assert podthaw("rm", "-f", "shop/web")[0] == 0


@pytest.mark.parametrize("option", ["--force", "-f"])
def test_one_in_use_needs_more_than_force(
    podthaw: Podthaw, store: Store, web: str, option: str
) -> None:
    store.pin(web, WHO)
    assert podthaw("rm", option, "shop/web") == (
        1,
        "",
        f"podthaw: the snapshot {web} is in use by the restore {WHO}\n",
    )
    assert store.resolve("shop", "web") == web
    assert podthaw("rm", "--in-use", "shop/web") == (0, f"removed shop/web {web}\n", "")


def test_what_is_not_there(podthaw: Podthaw, store: Store, web: str) -> None:
    assert podthaw("rm", "shop/web", "shop/api") == (
        1,
        "",
        "podthaw: there is no snapshot api in the namespace shop\n",
    )
    assert store.resolve("shop", "web") == web


def test_a_name_whose_snapshot_is_gone(podthaw: Podthaw, store: Store, web: str) -> None:
    store.folder(web).rename(store.root / "elsewhere")
    assert podthaw("rm", "shop/web") == (0, "removed the name shop/web\n", "")
    assert store.names() == {}
    assert podthaw("rm", "shop/web") == (
        1,
        "",
        "podthaw: there is no snapshot web in the namespace shop\n",
    )
