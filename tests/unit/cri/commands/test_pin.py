from __future__ import annotations

from cri.store import Store
from tests.unit.cri.commands.conftest import Podthaw
from tests.unit.cri.store.making import publish


def test_pin(podthaw: Podthaw, store: Store, web: str) -> None:
    other = publish(store, "other")
    assert podthaw("pin", "shop/web", other) == (0, f"pinned {web}\npinned {other}\n", "")
    assert podthaw("pin", "shop/web") == (0, f"pinned {web}\n", "")
    assert store.pins(web) == store.pins(other) == ["user"]


def test_nothing_is_pinned_when_one_is_not_there(podthaw: Podthaw, store: Store, web: str) -> None:
    assert podthaw("pin", "shop/web", "shop/api") == (
        1,
        "",
        "podthaw: there is no snapshot api in the namespace shop\n",
    )
    assert store.pins(web) == []
