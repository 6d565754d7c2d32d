from __future__ import annotations

import struct
from pathlib import Path

from shim.criu import stats
from shim.criu.images import COMMON_MAGIC, SERVICE_MAGIC
from shim.criu.wire import Message

STATS_MAGIC = 0x57093306  # criu/include/magic.h


def image(freezing: int, frozen: int, memory: int) -> bytes:
    dump = Message()
    for number, value in ((1, freezing), (2, frozen), (3, memory)):
        dump.set_uint(number, value)
    entry = Message()
    entry.set_message(1, dump)
    data = entry.encode()
    return struct.pack("<III", SERVICE_MAGIC, STATS_MAGIC, len(data)) + data


def test_seconds(tmp_path: Path) -> None:
    assert COMMON_MAGIC != SERVICE_MAGIC
    (tmp_path / stats.FILE).write_bytes(image(1000, 2_500_000, 70))
    assert stats.dump_seconds(tmp_path) == (0.001, 2.5, 7e-05)


def test_no_statistics(tmp_path: Path) -> None:
    assert stats.dump_seconds(tmp_path) == (0.0, 0.0, 0.0)
    for data in (b"", b"garbage!", image(1, 2, 3)[:-1]):
        (tmp_path / stats.FILE).write_bytes(data)
        assert stats.dump_seconds(tmp_path) == (0.0, 0.0, 0.0)
