from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shim import mounts, pagesmount, saved
from shim.container import ContainerRef, start_time
from shim.memory.model import Area, Memory
from shim.mounts import Mounted
from shim.saved import SavedMemory

MAPPED = Memory(size=1 << 20, areas=(Area(1, 0x10000, 0x110000, 0),))
CALLS = list[tuple[object, ...]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> CALLS:
    """What was asked of :mod:`shim.memory`."""
    found: CALLS = []

    def map_memory(images: Path, stage: Path, *, earlier: Path | None) -> Memory:
        found.append(("map", images, stage, earlier and earlier.read_bytes()))
        return MAPPED

    def copy_memory(images: Path, *, earlier: Path | None) -> None:
        found.append(("copy", images, earlier and earlier.read_bytes()))

    monkeypatch.setattr(saved, "map_memory", map_memory)
    monkeypatch.setattr(saved, "copy_memory", copy_memory)
    return found


@pytest.fixture
def container(tmp_path: Path) -> ContainerRef:
    return ContainerRef(
        id="c1",
        bundle=tmp_path,
        rootfs=tmp_path,
        pid=os.getpid(),
        started=start_time(os.getpid()) or 0,
        spec={},
        cgroups={},
        descriptors=(),
    )


def test_memory_is_mapped(calls: CALLS, container: ContainerRef) -> None:
    with SavedMemory.of(container) as memory:
        assert memory.finish(Path("/stage"), "mapped") == "mapped"
    assert calls == [("map", Path("/stage/images"), Path("/stage"), None)]
    assert list(memory.phases) == ["map"]


def test_memory_is_copied_when_that_is_wanted(calls: CALLS, container: ContainerRef) -> None:
    with SavedMemory.of(container) as memory:
        assert memory.finish(Path("/stage"), "eager") == "eager"
    assert calls == [("copy", Path("/stage/images"), None)]


def test_nothing_worth_mapping_is_copied(
    calls: CALLS, container: ContainerRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "map_memory", lambda *_, **__: Memory())
    with SavedMemory.of(container) as memory:
        assert memory.finish(Path("/stage"), "mapped") == "eager"
    assert calls == []


def test_a_container_with_something_of_its_own_in_the_place(
    calls: CALLS, container: ContainerRef, tmp_path: Path
) -> None:
    (tmp_path / ".podthaw-pages").touch()
    with SavedMemory.of(container) as memory:
        assert memory.finish(Path("/stage"), "mapped") == "eager"
    assert [call[0] for call in calls] == ["copy"]


@pytest.mark.parametrize("mode", ["mapped", "eager"])
def test_earlier_memory_can_be_read_after_its_snapshot_went(
    calls: CALLS,
    container: ContainerRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: saved.MemoryMode,
) -> None:
    place = tmp_path / ".podthaw-pages"
    place.write_bytes(b"earlier")
    listed = mounts.parse(f"7 1 8:1 /store/1/pages {place} ro,nosuid - ext4 /dev/vda rw")
    monkeypatch.setattr(pagesmount, "MOUNT_POINT", str(place))
    monkeypatch.setattr(mounts, "read", lambda _: listed)
    assert isinstance(replace(listed[0]), Mounted)
    with SavedMemory.of(container) as memory:
        place.unlink()
        assert memory.finish(Path("/stage"), mode) == mode
    assert calls[0][-1] == b"earlier"
    assert memory.earlier is not None
    assert not memory.earlier.exists()
