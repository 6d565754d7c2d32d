from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cri.quarantine import Entry, Quarantine
from cri.store import Store
from tests.unit.cri.commands.conftest import Podthaw


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_everything_is_shown(
    podthaw: Podthaw, store: Store, web: str, tmp_path: Path, form: str
) -> None:
    store.set_name("bank", "api", web)
    store.pin(web)
    Quarantine(tmp_path / "state").put(web, Entry("CRIU failed", 0.0, "shop/web-0"))
    status, out, err = podthaw("inspect", web[7:15], "-o", form)
    assert (status, err) == (0, "")
    value = json.loads(out) if form == "json" else yaml.safe_load(out)
    assert value["digest"] == web
    assert value["folder"] == str(store.folder(web))
    assert value["names"] == ["bank/api", "shop/web"]
    assert value["pins"] == ["user"]
    assert value["pinned"] is True
    assert value["quarantined"] == {
        "reason": "CRIU failed",
        "time": "1970-01-01T00:00:00Z",
        "pod": "shop/web-0",
    }
    assert value["manifest"]["source"]["pod"] == "web-0"
    assert value["manifest"]["host"]["criu"] == "4.2.1"
    assert len(value["manifest"]["artifacts"]) == 4
    assert value["problem"] is None


def test_yaml_is_the_default(podthaw: Podthaw, web: str) -> None:
    _, out, _ = podthaw("inspect", "shop/web")
    assert out.startswith(f"digest: {web}\n")


def test_a_damaged_snapshot_is_shown_with_its_damage(
    podthaw: Podthaw, store: Store, web: str
) -> None:
    (store.folder(web) / "manifest.json").write_text("{}")
    status, out, _ = podthaw("inspect", "shop/web", "-o", "json")
    assert status == 0
    value = json.loads(out)
    assert value["manifest"] is None
    assert value["problem"].startswith("the snapshot's manifest was altered: wanted ")


def test_what_is_not_there(podthaw: Podthaw, web: str) -> None:
    assert web
    assert podthaw("inspect", "shop/api") == (
        1,
        "",
        "podthaw: there is no snapshot api in the namespace shop\n",
    )
