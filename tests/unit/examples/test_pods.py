"""The pods that the documentation shows say what their comments claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cri.annotations import read

PODS = Path(__file__).parents[3] / "examples/pods"


def template(name: str) -> dict[str, Any]:
    """The pod, or the pod template, of a file."""
    loaded: dict[str, Any] = yaml.safe_load((PODS / name).read_text())
    if loaded["kind"] == "Deployment":
        inner: dict[str, Any] = loaded["spec"]["template"]
        return inner
    return loaded


@pytest.mark.parametrize(
    ("file", "restored", "cold", "on_failure"),
    [
        ("static-pod.yaml", {"embeddings"}, set(), "cold"),
        ("deployment.yaml", {"embeddings"}, set(), "cold"),
        ("one-of-two-containers.yaml", {"model"}, {"sidecar"}, "fail"),
    ],
)
def test_the_annotations_mean_these_containers(
    file: str, restored: set[str], cold: set[str], on_failure: str
) -> None:
    pod = template(file)
    given = pod["metadata"]["annotations"]
    names = {container["name"] for container in pod["spec"]["containers"]}
    readings = {name: read(given, name) for name in names}
    assert names == restored | cold
    assert {name for name, reading in readings.items() if reading.wish} == restored
    for name in restored:
        wish = readings[name].wish
        assert wish is not None
        assert wish.reference.name == "embeddings"
        assert readings[name].on_failure == on_failure
    assert not [w for reading in readings.values() for w in reading.warnings]


def test_every_file_is_tested() -> None:
    assert {path.name for path in PODS.iterdir()} == {
        "static-pod.yaml",
        "deployment.yaml",
        "one-of-two-containers.yaml",
    }
