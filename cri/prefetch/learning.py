"""Watches restored containers to learn which pages of their snapshot they touch first.

After its start the page tables of a container's processes are looked at a few times, ever more
seldom; what was touched since the last look is noted behind what was known. So the order is that
of use, and what a program touches late, or never before its first answer, is read late. A node
learns from the first few restores of a snapshot and then no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from cri import pagemap, processes
from cri.prefetch import ranges
from cri.prefetch.hot import GAP, HotPages, Run
from cri.prefetch.ranges import Range
from shim.memory import PAGES

log = logging.getLogger("podthaw.prefetch")

LOOKS = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 18.0)
"""Seconds between the looks: half a minute in all, after which a program runs, not starts."""


class Learner:
    """Belongs to one event loop; the looks happen in threads."""

    def __init__(
        self, hot: HotPages, containerd_state: Path, *, looks: Sequence[float] = LOOKS
    ) -> None:
        self._hot = hot
        self._containerd_state = containerd_state
        self._looks = looks
        self._watched: dict[str, tuple[str, asyncio.Task[None]]] = {}
        """By snapshot: the container that is watched."""

    async def learn(self, container: str, digest: str, folder: Path) -> None:
        """Watch a container that was just restored from the snapshot in ``folder``.

        Returns at once when the node knows enough, another replica is watched, or the snapshot
        has no mapped memory; and early when the container ends, at the latest when another takes
        its place. Raises OSError when what was learned cannot be noted.
        """
        watched = self._watched.get(digest)
        if watched is not None:
            other, task = watched
            if await asyncio.to_thread(processes.of_container, other, self._containerd_state):
                return
            task.cancel()  # it would only find out at its next look
        task = asyncio.ensure_future(self._watch(container, digest, folder / PAGES))
        self._watched[digest] = (container, task)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            if self._watched.get(digest) == (container, task):
                del self._watched[digest]
        if not task.cancelled():
            task.result()

    async def _watch(self, container: str, digest: str, pages: Path) -> None:
        try:
            size = (await asyncio.to_thread(pages.stat)).st_size
        except FileNotFoundError:
            return
        run = Run(await asyncio.to_thread(self._hot.get, digest, size))
        if run.is_needless:
            return
        looks = 0
        for pause in self._looks:
            await asyncio.sleep(pause)
            if not await asyncio.to_thread(self._look, container, digest, run):
                break
            looks += 1
        if looks:
            await asyncio.to_thread(self._hot.put, digest, run.known.watched())
            log.debug("%s: %d of %d bytes are hot", digest, ranges.total(run.known.ranges), size)

    def _look(self, container: str, digest: str, run: Run) -> bool:
        """Look once, and note what is new; False when the container does not run."""
        found: list[Range] | None = None
        huge = 0

        def parts(pid: int) -> Iterator[Range]:
            nonlocal huge
            for one in pagemap.touched(pid):
                huge += one.end - one.start if one.huge else 0
                yield one.start, one.end

        for pid in processes.of_container(container, self._containerd_state):
            # A process may end meanwhile.
            with suppress(FileNotFoundError, ProcessLookupError):
                # Joined as they come: a program may have touched every other page.
                found = ranges.merge([*(found or []), *ranges.join(parts(pid), gap=GAP)])
        if found is None:
            return False
        before = run.known
        run.look(found, huge=huge)
        if run.known != before:
            self._hot.put(digest, run.known)
        return True
