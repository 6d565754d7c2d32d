from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.node import oci


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/tool").write_text("#!/bin/sh\n")
    return oci.layer_from_directory(tree, tmp_path / "layer.tar")


def blob(archive: tarfile.TarFile, digest: str) -> bytes:
    content = archive.extractfile("blobs/" + digest.replace(":", "/"))
    assert content is not None
    data = content.read()
    assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
    return data


def test_the_archive_leads_from_the_name_to_the_layers(layer: Path, tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    oci.write_image(
        target, "podthaw.test/x:1", [layer, layer], entrypoint=["/bin/tool"], env={"A": "b"}
    )
    with tarfile.open(target) as archive:
        file = archive.extractfile("index.json")
        assert file is not None
        index: dict[str, Any] = json.load(file)
        (entry,) = index["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == "podthaw.test/x:1"
        manifest = json.loads(blob(archive, entry["digest"]))
        config = json.loads(blob(archive, manifest["config"]["digest"]))
        digests = [part["digest"] for part in manifest["layers"]]
        assert config["rootfs"]["diff_ids"] == digests
        assert blob(archive, digests[0]) == layer.read_bytes()
        assert config["config"]["Entrypoint"] == ["/bin/tool"]
        assert "A=b" in config["config"]["Env"]
        # The layer that is used twice is stored once.
        assert len(archive.getnames()) == len(set(archive.getnames()))


def test_a_layer_may_lie_below_a_directory(layer: Path, tmp_path: Path) -> None:
    moved = oci.layer_from_directory(tmp_path / "tree", tmp_path / "b.tar", under="/opt/app")
    with tarfile.open(layer) as archive:
        assert "./bin/tool" in archive.getnames()
    with tarfile.open(moved) as archive:
        assert "opt/app/bin/tool" in archive.getnames()
