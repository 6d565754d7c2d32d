from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import snapshot
from shim.errors import Broken, Unfit
from shim.snapshot import Artifact, HostNeeds, Manifest, Mount, Process, Source

MANIFEST = Manifest(
    created="2026-11-24T10:00:00Z",
    source=Source(
        namespace="shop",
        pod="web-0",
        pod_uid="3b0f",
        container="web",
        container_id="c" * 64,
        image="registry.example/shop:1",
        image_digest="sha256:" + "1" * 64,
        command=["python3", "-m", "server"],
    ),
    host=HostNeeds(
        arch="x86_64", kernel="6.18.0", criu="4.2.1", cpu_features=["avx"], page_size=4096, cgroup=2
    ),
    security={"capabilities": {"bounding": []}},
    mounts=[Mount(destination="/data", type="bind", kind="dir")],
    processes=[Process(pid=1, parent=0, name="python3", threads=4, resident=1 << 20)],
    addresses=["10.88.0.5"],
    hostname="web-0",
    stdio=["pipe:[1]", "pipe:[2]", "pipe:[3]"],
    artifacts=[Artifact(path="images/core-1.img", size=5, sha256="a" * 64)],
    frozen_seconds=0.25,
)
DATA = snapshot.encode(MANIFEST)


DEFAULTED = ("gpu", "frozen_seconds", "memory")


def raw() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(DATA)
    return value


def changed(*path: str | int, to: object) -> bytes:
    value: Any = raw()
    at = value
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return json.dumps(value).encode()


def test_a_manifest_survives() -> None:
    assert snapshot.decode(DATA) == MANIFEST
    assert MANIFEST.size == 5
    assert snapshot.encode(snapshot.decode(DATA)) == DATA


def test_the_digest_is_that_of_the_bytes() -> None:
    assert snapshot.digest(b"") == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


def test_fields_with_defaults_may_be_absent() -> None:
    value = raw()
    del value["frozen_seconds"], value["gpu"]
    manifest = snapshot.decode(json.dumps(value).encode())
    assert (manifest.frozen_seconds, manifest.gpu) == (0.0, [])


@pytest.mark.parametrize("data", [b"", b"x", b"[]", b"{}", b"null", b'{"format": true}', b"\xff"])
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(Broken, match=r"^the snapshot's manifest "):
        snapshot.decode(data)


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(Broken, match=r"^the snapshot has format 3, this Podthaw reads up to 2$"):
        snapshot.decode(changed("format", to=3))


def test_format_1_is_memory_that_is_copied() -> None:
    value = raw()
    value["format"] = 1
    del value["memory"], value["artifacts"][0]["holes"]
    manifest = snapshot.decode(json.dumps(value).encode())
    assert (manifest.format, manifest.memory) == (1, "eager")


MAPPED = [
    Artifact(path="images/core-1.img", size=5, sha256="a" * 64),
    Artifact(path="memory.json", size=9, sha256="b" * 64),
    Artifact(path="pages", size=8 << 20, sha256="c" * 64, holes=7 << 20),
    Artifact(path="pages.sums", size=80, sha256="c" * 64),
]


def test_holes_take_no_room() -> None:
    manifest = replace(MANIFEST, memory="mapped", artifacts=MAPPED)
    assert snapshot.decode(snapshot.encode(manifest)) == manifest
    assert manifest.size == 5 + 9 + (1 << 20) + 80
    assert manifest.artifact("pages") == MAPPED[2]
    assert manifest.artifact("page") is None


@pytest.mark.parametrize(
    ("memory", "changes", "sentence"),
    [
        ("lazy", {}, "memory is 'lazy', this Podthaw knows mapped and eager"),
        ("eager", {}, "memory is eager, but it has a pages"),
        ("mapped", {"pages": None}, "memory is mapped, but it has no pages"),
        ("mapped", {"pages.sums": None}, r"memory is mapped, but it has no pages\.sums"),
        ("mapped", {"memory.json": None}, r"memory is mapped, but it has no memory\.json"),
        ("mapped", {"pages.sums": {"sha256": "d" * 64}}, "another digest than"),
        ("mapped", {"pages": {"holes": -1}}, "-1 bytes of holes"),
        ("mapped", {"pages": {"holes": (8 << 20) + 1}}, "bytes of holes"),
        ("mapped", {"memory.json": {"holes": 1}}, r"memory\.json of 9 bytes 1 bytes of holes"),
    ],
)
def test_what_mapped_memory_consists_of(
    memory: str, changes: dict[str, dict[str, Any] | None], sentence: str
) -> None:
    artifacts = []
    for one in MAPPED:
        change = changes.get(one.path, {})
        artifacts += [] if change is None else [replace(one, **change)]
    data = snapshot.encode(replace(MANIFEST, memory=memory, artifacts=artifacts))
    with pytest.raises(Broken, match=f"^the snapshot's .*{sentence}"):
        snapshot.decode(data)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../x", "a//b", "./a", "a/", "a/."])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(Broken, match=r"^the snapshot's manifest names the path "):
        snapshot.decode(changed("artifacts", 0, "path", to=path))


@pytest.mark.parametrize("to", [0, -1])
def test_a_format_that_never_was_is_refused(to: int) -> None:
    with pytest.raises(Broken, match=f"^the snapshot has format {to}, this Podthaw reads"):
        snapshot.decode(changed("format", to=to))


def test_a_path_that_stands_twice_is_refused() -> None:
    one = raw()["artifacts"][0]
    with pytest.raises(Broken, match=r"^the snapshot's manifest names a path twice"):
        snapshot.decode(changed("artifacts", to=[one, one]))


@pytest.mark.parametrize("path", ["a\0b", "a\nb", "a\x1b[2Jb", "a\ud800b", "manifest.json"])
def test_a_path_that_no_artifact_can_have_is_refused(path: str) -> None:
    with pytest.raises(Broken, match=r"^the snapshot's manifest names the path "):
        snapshot.decode(changed("artifacts", 0, "path", to=path))


@pytest.mark.parametrize("size", [-1, 1 << 63, 10**400])
def test_a_size_that_no_file_can_have_is_refused(size: int) -> None:
    with pytest.raises(Broken, match=r"^the snapshot's manifest gives images/core-1.img the size "):
        snapshot.decode(changed("artifacts", 0, "size", to=size))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("artifacts", 0, "path"), 5, "wanted str for Artifact.path, found int"),
        (("artifacts", 0, "size"), True, "wanted int for Artifact.size, found bool"),
        (("artifacts", 0), [], "wanted an object for Artifact, found list"),
        (("source",), None, "wanted an object for Source, found NoneType"),
        (("source", "command"), "sh", "wanted a list for Source.command, found str"),
        (("source", "command"), [1], "wanted str for Source.command, found int"),
        (("host", "cgroup"), 2.0, "wanted int for HostNeeds.cgroup, found float"),
        (("security",), [], r"wanted dict\[str, Any\] for Manifest.security, found list"),
        (("surprise",), 1, "Manifest has no field surprise"),
    ],
)
def test_a_field_of_another_type_is_refused(
    path: tuple[str | int, ...], value: object, sentence: str
) -> None:
    with pytest.raises(Broken, match=f"^the snapshot's manifest cannot be read: .*{sentence}"):
        snapshot.decode(changed(*path, to=value))


@pytest.mark.parametrize("field", [key for key in raw() if key not in DEFAULTED])
def test_no_field_may_be_absent(field: str) -> None:
    value = raw()
    del value[field]
    with pytest.raises(Broken, match=r"^the snapshot's manifest "):
        snapshot.decode(json.dumps(value).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
PLACES: list[tuple[str | int, ...]] = [
    *((key,) for key in raw()),
    *(("source", key) for key in raw()["source"]),
    *(("host", key) for key in raw()["host"]),
    *(("artifacts", 0, key) for key in raw()["artifacts"][0]),
    *(("mounts", 0, key) for key in raw()["mounts"][0]),
    *(("processes", 0, key) for key in raw()["processes"][0]),
]


@given(st.sampled_from(PLACES), JSON)
def test_whatever_stands_in_a_field_it_is_read_or_broken(
    place: tuple[str | int, ...], value: object
) -> None:
    try:
        manifest = snapshot.decode(changed(*place, to=value))
    except Broken:
        return
    assert snapshot.encode(manifest)
    assert manifest.size >= 0


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_broken(data: bytes) -> None:
    with pytest.raises(Broken):
        snapshot.decode(data)


def test_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(DATA)
    assert snapshot.read(tmp_path, snapshot.digest(DATA)) == MANIFEST
    wanted = "sha256:" + "0" * 64
    with pytest.raises(Broken) as caught:
        snapshot.read(tmp_path, wanted)
    assert str(caught.value) == (
        f"the snapshot's manifest was altered: wanted {wanted}, found {snapshot.digest(DATA)}"
    )


def test_a_missing_manifest_is_damage_and_a_file_system_that_fails_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Broken, match=r"^the snapshot has no manifest$"):
        snapshot.read(tmp_path, snapshot.digest(DATA))

    def ill(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "open", ill)
    with pytest.raises(
        Unfit, match=r"^the snapshot's manifest cannot be read: Input/output error$"
    ):
        snapshot.read(tmp_path, snapshot.digest(DATA))


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(DATA)
    (tmp_path / "manifest.json").symlink_to(tmp_path / "real")
    with pytest.raises(Broken, match="is not a plain file"):
        snapshot.read(tmp_path, snapshot.digest(DATA))
    (tmp_path / "manifest.json").unlink()
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(Broken, match="is not a plain file"):
        snapshot.read(tmp_path, snapshot.digest(DATA))
