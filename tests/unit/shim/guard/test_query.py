from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from shim.guard import maps, query

P = 4096


def test_it_agrees_with_what_the_maps_say(tmp_path: Path) -> None:
    file = tmp_path / "pages"
    file.write_bytes(bytes(16 * P))
    name = os.fsencode(str(file))
    with (
        file.open("r+b") as opened,
        mmap.mmap(opened.fileno(), 4 * P, flags=mmap.MAP_PRIVATE),
        mmap.mmap(opened.fileno(), 4 * P, flags=mmap.MAP_SHARED),
        mmap.mmap(opened.fileno(), 4 * P, flags=mmap.MAP_PRIVATE),
    ):
        found, _ = maps.areas(Path("/proc/self/maps").read_bytes(), name)
        assert sum(one.end - one.start for one in found) == 8 * P
        if query.touches(os.getpid(), name, ((0, P),)) is None:
            pytest.skip("this kernel has no PROCMAP_QUERY")
        low, high = found[0].start - 64 * P, found[-1].end + 64 * P
        for start in range(low, high, 2 * P):
            for pages in (1, 3, 40):
                span = (start, start + pages * P)
                told = query.touches(os.getpid(), name, (span,))
                assert told == bool(maps.inside(found, *span))
        span = (found[0].start, found[0].end)
        top = (1 << 47) - 2 * P
        assert query.touches(os.getpid(), name, ((0, P), (top, top + P), span)) is True
        assert query.touches(os.getpid(), b"/other", ((0, 1 << 47),)) is False
    assert query.touches(os.getpid(), name, ((0, 1 << 47),)) is False


def test_a_process_that_has_ended() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    with pytest.raises(OSError, match=str(child)):
        query.touches(child, b"/name", ((0, P),))
