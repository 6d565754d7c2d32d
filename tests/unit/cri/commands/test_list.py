from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

from cri.quarantine import Entry, Quarantine
from cri.store import Store
from tests.unit.cri.commands.conftest import Podthaw
from tests.unit.cri.store.making import publish

PLAN = "0123456789abcdef" * 2


def test_no_store(podthaw: Podthaw, tmp_path: Path) -> None:
    sentence = (
        f"podthaw: there is no snapshot store at {tmp_path}/store: "
        "nothing was captured here yet, or its file system is not mounted\n"
    )
    assert podthaw("list") == (1, "", sentence)


def test_nothing_is_a_sentence_and_no_failure(podthaw: Podthaw, store: Store) -> None:
    assert store.snapshots() == []
    assert podthaw("list") == (0, "", "no snapshots\n")
    assert podthaw("list", "-q") == (0, "", "no snapshots\n")
    assert podthaw("list", "-n", "shop") == (0, "", "no snapshots in the namespace shop\n")
    assert podthaw("list", "-o", "json") == (0, "[]\n", "")
    assert podthaw("list", "-o", "yaml") == (0, "[]\n", "")


def test_a_table(podthaw: Podthaw, store: Store, web: str) -> None:
    store.set_name("bank", "a-much-longer-name", web)
    other = publish(store, "other", image="registry.example/" + "x" * 100)
    size = "[0-9.]+ KiB"
    status, out, err = podthaw("list")
    assert (status, err) == (0, "")
    lines = out.split("\n")
    assert re.fullmatch(
        "NAMESPACE   NAME                 DIGEST                SIZE +AGE   USED    IMAGE +STATE",
        lines[0],
    )
    assert re.fullmatch(
        rf"bank        a-much-longer-name   {web[:19]}   {size}   [0-9]s    never   "
        r"registry.example/shop:1 +ready",
        lines[1],
    )
    assert re.fullmatch(
        rf"shop        web                  {web[:19]}   {size}   [0-9]s    never   "
        r"registry.example/shop:1 +ready",
        lines[2],
    )
    assert re.fullmatch(
        rf"-           -                    {other[:19]}   {size}   [0-9]s    never   "
        rf"registry.example/{'x' * 42}…   ready",
        lines[3],
    )
    assert lines[4:] == [""]


def test_states(podthaw: Podthaw, store: Store, web: str, tmp_path: Path) -> None:
    store.pin(web)
    store.pin(web, store.plan_pin(PLAN))
    Quarantine(tmp_path / "state").put(web, Entry("CRIU failed", 0.0, "shop/web-0"))
    (store.folder(web) / "rootfs.tar").write_bytes(b"x")
    later = time.time() + 5
    os.utime(store.root / "used" / web[7:], (later, later))
    _, out, _ = podthaw("list")
    row = out.split("\n")[1]
    assert row.endswith("   pinned, in use (1), quarantined, damaged")
    assert "   0s     registry.example/shop:1   " in row


def test_no_trunc(podthaw: Podthaw, store: Store) -> None:
    image = "registry.example/" + "x" * 100
    digest = publish(store, image=image)
    _, out, _ = podthaw("list", "--no-trunc")
    assert f"   {digest}   " in out
    assert f"   {image}   " in out


def test_quiet(podthaw: Podthaw, store: Store, web: str) -> None:
    store.set_name("bank", "web", web)
    other = publish(store, "other")
    assert podthaw("list", "-q") == (0, f"bank/web\nshop/web\n{other}\n", "")
    assert podthaw("list", "-q", "-n", "shop") == (0, "shop/web\n", "")


def test_json(podthaw: Podthaw, store: Store, web: str) -> None:
    store.pin(web)
    other = publish(store, "other")
    status, out, err = podthaw("list", "-o", "json")
    assert (status, err) == (0, "")
    first, second = json.loads(out)
    assert first.pop("disk") > 5000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.pop("published"))
    assert first == {
        "namespace": "shop",
        "name": "web",
        "digest": web,
        "image": "registry.example/shop:1",
        "size": 5012,
        "created": "2026-11-24T10:00:00Z",
        "used": None,
        "pinned": True,
        "in_use": 0,
        "quarantined": None,
        "problem": None,
    }
    assert (second["namespace"], second["name"], second["digest"]) == (None, None, other)


def test_problems_are_told_and_do_not_hide_the_rest(
    podthaw: Podthaw, store: Store, web: str
) -> None:
    (store.root / "names/shop/bad").write_text("garbage")
    sentence = (
        f"podthaw: the name shop/bad in the store {store.root} holds no digest: "
        "set it again with `podthaw tag`\n"
    )
    assert podthaw("list", "-q") == (0, "shop/web\n", sentence)
    assert store.resolve("shop", "web") == web


def test_a_bad_namespace(podthaw: Podthaw, store: Store) -> None:
    assert store.root.exists()
    status, out, err = podthaw("list", "-n", "../x")
    assert (status, out) == (1, "")
    assert err.startswith("podthaw: '../x' is not a namespace: wanted 1 to 63 ")
