from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim import guard, mounts, pagesmount, saved
from shim.container import ContainerRef, start_time
from shim.memory.model import Area, Memory
from shim.saved import SavedMemory

MAPPED = Memory(
    size=2 << 20,
    areas=(
        Area(1, 0x200000, 0x240000, 0x100000),
        Area(1, 0x10000, 0x110000, 0),
        Area(7, 0x10000, 0x110000, 0),  # the same in a child
    ),
)
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
    monkeypatch.setattr(guard, "strip", lambda images: found.append(("strip", images)))
    monkeypatch.setattr(guard, "add", lambda images, ranges: found.append(("add", images, ranges)))
    monkeypatch.setattr(guard, "supported", lambda: "")
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
    images = Path("/stage/images")
    assert calls == [
        ("strip", images),
        ("map", images, Path("/stage"), None),
        ("add", images, [(0x10000, 0x110000), (0x200000, 0x240000)]),
    ]
    assert list(memory.phases) == ["map"]


def test_memory_is_copied_when_that_is_wanted(calls: CALLS, container: ContainerRef) -> None:
    with SavedMemory.of(container) as memory:
        assert memory.finish(Path("/stage"), "eager") == "eager"
    assert calls == [("strip", Path("/stage/images")), ("copy", Path("/stage/images"), None)]


def test_memory_is_copied_where_it_cannot_be_guarded(
    calls: CALLS, container: ContainerRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "supported", lambda: "an old kernel")
    with SavedMemory.of(container) as memory:
        assert memory.finish(Path("/stage"), "mapped") == "eager"
    assert [call[0] for call in calls] == ["strip", "copy"]


def test_nothing_worth_mapping_is_copied(
    calls: CALLS, container: ContainerRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "map_memory", lambda *_, **__: Memory())
    with SavedMemory.of(container) as memory:
        assert memory.finish(Path("/stage"), "mapped") == "eager"
    assert [call[0] for call in calls] == ["strip"]


def test_a_container_with_something_of_its_own_in_the_place(
    calls: CALLS, container: ContainerRef, tmp_path: Path
) -> None:
    (tmp_path / ".podthaw-pages").touch()
    with SavedMemory.of(container) as memory:
        assert memory.finish(Path("/stage"), "mapped") == "eager"
    assert [call[0] for call in calls] == ["strip", "copy"]


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
    with SavedMemory.of(container) as memory:
        place.unlink()
        assert memory.finish(Path("/stage"), mode) == mode
    assert calls[1][-1] == b"earlier"
    assert memory.earlier is not None
    assert not memory.earlier.exists()
