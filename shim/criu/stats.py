"""How long a dump took, from the ``stats-dump`` image that CRIU leaves in its work folder."""

from __future__ import annotations

from pathlib import Path

from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken

FILE = "stats-dump"

_DUMP = 1  # stats_entry.dump
_FREEZING, _FROZEN, _MEMORY = 1, 2, 3  # dump_stats_entry, all in microseconds


def dump_seconds(work: Path) -> tuple[float, float, float]:
    """Seconds of freezing, of standing still (freezing included), of reading memory.

    Zeros when there are no statistics that can be read: they are only told, never relied on.
    """
    try:
        image = images.decode((work / FILE).read_bytes(), FILE)
        stats = Message.parse(image.entries[0].message).message(_DUMP)
        values = [stats.uint(number) for number in (_FREEZING, _FROZEN, _MEMORY)]
    except (OSError, Broken, IndexError):
        return 0.0, 0.0, 0.0
    freezing, frozen, memory = (value / 1e6 for value in values)
    return freezing, frozen, memory
