from __future__ import annotations

from cri.store import Store
from tests.unit.cri.commands.conftest import Podthaw

WHO = "node-9." + "0123456789abcdef" * 2


def test_unpin(podthaw: Podthaw, store: Store, web: str) -> None:
    store.pin(web)
    store.pin(web, WHO)
    assert podthaw("unpin", "shop/web") == (0, f"unpinned {web}\n", "")
    assert store.pins(web) == [WHO]
    assert podthaw("unpin", "shop/web") == (
        1,
        "",
        f"podthaw: the snapshot {web} has no pin user\n",
    )


def test_the_pin_of_a_lost_restore(podthaw: Podthaw, store: Store, web: str) -> None:
    store.pin(web, WHO)
    assert podthaw("unpin", "shop/web", "--who", WHO) == (0, f"unpinned {web}\n", "")
    assert store.pins(web) == []
    status, out, err = podthaw("unpin", "shop/web", "--who", "../x")
    assert (status, out) == (1, "")
    assert err == "podthaw: '../x' is not who can pin: wanted user or NODE.PLAN\n"
