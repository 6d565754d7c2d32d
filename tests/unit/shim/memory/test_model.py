from __future__ import annotations

import json

import pytest

from shim.errors import Broken
from shim.memory import model
from shim.memory.model import Area, Extent, Memory

GOOD = Memory(
    size=1 << 20,
    areas=(Area(1, 0x1000, 0x3000, 0), Area(1, 0x9000, 0xA000, 4096), Area(7, 0x1000, 0x3000, 0)),
    extents=(Extent(0, 4096), Extent(8192, 4096)),
)


def test_what_is_written_is_read() -> None:
    assert model.decode(model.encode(GOOD)) == GOOD
    assert model.decode(model.encode(Memory())) == Memory()


def test_ranges_are_by_process() -> None:
    assert GOOD.ranges() == {1: [(0x1000, 0x3000), (0x9000, 0xA000)], 7: [(0x1000, 0x3000)]}
    assert GOOD.stored == 8192


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": "4096"},
        {"size": True},
        {"size": 100},
        {"areas": [[1, 2, 3]]},
        {"areas": [[1, 0x3000, 0x1000, 0]]},
        {"areas": [[1, 0x1000, 0x3000, 1 << 20]]},
        {"areas": None},
        {"extents": [[0, 0]]},
        {"extents": [[0, 4096], [0, 4096]]},
        {"extents": [[1 << 20, 1]]},
        {"extents": {}, "areas": 5},
    ],
)
def test_what_is_no_good_file_is_told(change: dict[str, object]) -> None:
    raw = json.loads(model.encode(GOOD)) | change
    with pytest.raises(Broken, match=r"memory\.json"):
        model.decode(json.dumps(raw).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"5", b"{"])
def test_what_is_no_json_object_is_told(data: bytes) -> None:
    with pytest.raises(Broken, match=r"memory\.json cannot be read"):
        model.decode(data)
