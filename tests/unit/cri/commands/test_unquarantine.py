from __future__ import annotations

from pathlib import Path

from cri.quarantine import Entry, Quarantine
from tests.unit.cri.commands.conftest import Podthaw


def test_unquarantine(podthaw: Podthaw, web: str, tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "state")
    quarantine.put(web, Entry("CRIU failed", 1.0))
    assert podthaw("unquarantine", "shop/web") == (0, f"{web} may be tried again\n", "")
    assert quarantine.get(web) is None
    assert podthaw("unquarantine", "shop/web") == (
        1,
        "",
        f"podthaw: the snapshot {web} is not quarantined on this node\n",
    )
