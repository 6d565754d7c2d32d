"""Podthaw's settings as ``podthaw-dropin`` leaves them on a node."""

from __future__ import annotations

import json

import pytest

from tests.node.node import FLAVOURS, PREFIX, Node

pytestmark = [
    pytest.mark.node,
    pytest.mark.parametrize("node", FLAVOURS, indirect=True),
]

OWN = "/etc/podthaw/containerd.toml"
MAIN = "/etc/containerd/config.toml"


def test_podthaw_finds_its_settings_and_containerds(node: Node) -> None:
    path = OWN if node.flavour == "trixie" else MAIN
    checked = node.exec([f"{PREFIX}/bin/podthaw", "config", "check"])
    assert checked.stdout == f"{path}: good\n"
    assert checked.stderr == ""  # such as that containerd has no runtime "podthaw"
    shown = json.loads(node.exec([f"{PREFIX}/bin/podthaw", "config", "show", "-o", "json"]).stdout)
    assert shown["files"][0] == path
    assert MAIN in shown["files"]
    assert shown["containerd"] == "/run/containerd/containerd.sock"


def test_a_changed_setting_counts(node: Node) -> None:
    config = f"{PREFIX}/config/containerd.toml"
    text = node.read(config).decode()
    assert 'on_failure = "cold"' in text
    node.write("/tmp/changed.toml", text.replace('on_failure = "cold"', 'on_failure = "fail"'))
    for file, counts in (("/tmp/changed.toml", "fail"), (config, "cold")):
        node.exec([f"{PREFIX}/bin/podthaw-dropin", file])
        shown = node.exec([f"{PREFIX}/bin/podthaw", "config", "show", "-o", "json"]).stdout
        assert json.loads(shown)["on_failure"] == counts
