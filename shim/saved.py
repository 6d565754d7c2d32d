"""The memory of a container in its dump, after the thaw: mapped, or all of it copied at restore."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shim import guard, mounts, pagesmount
from shim.container import ContainerRef
from shim.memory.mapping import copy_memory, map_memory
from shim.snapshot import IMAGES, MemoryMode


@dataclass(kw_only=True)
class SavedMemory:
    """What finishes the images of a dump."""

    earlier: Path | None
    """The ``pages`` that the container's memory is mapped from, if it was restored so."""
    can_map: bool
    """Whether a restored container could have the file where it belongs."""
    phases: dict[str, float] = field(default_factory=dict)
    """Name → seconds: map."""

    @classmethod
    @contextmanager
    def of(cls, container: ContainerRef) -> Iterator[SavedMemory]:
        """Look at a container before its dump; the earlier ``pages`` stays readable meanwhile.

        Raises Unfit when the container's memory is mapped from a file that cannot be read.
        """
        fd = pagesmount.open_pages(container.pid, mounts.read(container.pid))
        try:
            yield cls(
                earlier=None if fd is None else Path(f"/proc/self/fd/{fd}"),
                can_map=fd is not None or not pagesmount.taken_by(container.spec, container.rootfs),
            )
        finally:
            if fd is not None:
                os.close(fd)

    def finish(self, stage: Path, wanted: MemoryMode) -> MemoryMode:
        """Make the images below ``stage`` stand alone; how their memory comes back.

        That is ``eager`` also where ``mapped`` is wanted, if nothing is worth it or this host could
        not guard it (:mod:`shim.guard`). Raises Broken, Unfit and OSError
        (:func:`shim.memory.mapping.map_memory`).
        """
        begin = time.monotonic()
        images = stage / IMAGES
        found: MemoryMode = "eager"
        guard.strip(images)
        if wanted == "mapped" and self.can_map and not guard.supported():
            memory = map_memory(images, stage, earlier=self.earlier)
            if memory.areas:
                ranges = {one for ranges in memory.ranges().values() for one in ranges}
                guard.add(images, sorted(ranges))
                found = "mapped"
        else:
            copy_memory(images, earlier=self.earlier)
        self.phases["map"] = time.monotonic() - begin
        return found
