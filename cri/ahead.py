"""What is done for a pod before its containers ask for it: verifying and reading its snapshots.

It begins when kubelet asks for the pod's sandbox, which takes the runtime and the network plugin
some time, and goes on beside the calls: none waits for it, and none fails with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from cri.decide import Decider
from cri.prefetch.hot import HotPages
from cri.prefetch.learning import Learner
from cri.prefetch.prefetcher import Pod, Prefetcher
from cri.records import Record
from cri.runtime import Options
from shim.errors import PodthawError

log = logging.getLogger("podthaw.prefetch")

_FRESH = 60.0  # seconds for which what a pod asked for need not be asked for again


class Ahead:
    """All methods belong to one event loop."""

    def __init__(self, decider: Decider, options: Options) -> None:
        hot = HotPages(options.state)
        self._decider = decider
        self._prefetcher = Prefetcher(options.ahead, hot)
        self._learner = Learner(hot, options.containerd_state)
        # Apart from the threads that calls wait for: reading ahead must hold up nobody.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="ahead")
        self._pods: set[Pod] = set()
        self._verifying: set[asyncio.Task[None]] = set()
        self._learning: set[asyncio.Task[None]] = set()

    @contextmanager
    def expecting(self, namespace: str, references: Collection[str]) -> Iterator[Pod]:
        """While the sandbox of a pod is made; when that fails, nobody waits for its snapshots."""
        pod = Pod()
        self._pods.add(pod)
        for reference in references:
            self._spawn(self._prepare(pod, namespace, reference), self._verifying)
        try:
            yield pod
        except BaseException:
            self._drop(pod)
            raise

    def bind(self, pod: Pod, sandbox: str) -> None:
        """The sandbox is there."""
        pod.sandbox = sandbox

    def again(self, sandbox: str, digest: str, folder: Path) -> None:
        """A container is about to be restored: see to it that its snapshot is read.

        It may be the container's restart, long after the pod's start, or the daemon's.
        """
        pod = self._of(sandbox)
        if pod is None:
            pod = Pod()
            pod.sandbox = sandbox
            self._pods.add(pod)
        if time.monotonic() - pod.asked.get(digest, -_FRESH) >= _FRESH:
            self._want(pod, digest, folder)

    def release(self, sandbox: str, digest: str | None = None) -> None:
        """A pod needs a snapshot no more, or none: its container starts cold, or it ended."""
        pod = self._of(sandbox)
        if pod is None:
            return
        if digest is None:
            self._drop(pod)
        elif digest:
            self._prefetcher.release(pod, digest)

    def sandboxes(self) -> set[str]:
        """The sandboxes for which snapshots are expected."""
        return {pod.sandbox for pod in self._pods if pod.sandbox}

    def restoring(self) -> AbstractContextManager[None]:
        """While a restore is under way, what is not urgent waits."""
        return self._prefetcher.restoring()

    def started(self, record: Record | None) -> None:
        """A container was started, of which ``record`` tells: learn from it, if it was restored."""
        if record is None:
            return
        decision = record.decision
        if record.outcome != "restored":
            self.release(decision.sandbox_id, decision.digest)
            return
        self._spawn(self._learn(record.container_id, decision.digest), self._learning)

    async def settle(self) -> None:
        """Wait until all that is expected has been verified and read."""
        while self._verifying:
            await asyncio.wait(self._verifying)
        await self._prefetcher.settle()

    async def stop(self) -> None:
        """End what runs; verifying is waited for."""
        for task in self._learning:
            task.cancel()
        for pod in list(self._pods):
            self._drop(pod)
        while tasks := self._learning | self._verifying:
            await asyncio.wait(tasks)
        await self._prefetcher.stop()

    async def _prepare(self, pod: Pod, namespace: str, reference: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            digest, folder = await loop.run_in_executor(
                self._threads, self._decider.look, namespace, reference
            )
            if pod in self._pods:
                self._want(pod, digest, folder)
            await loop.run_in_executor(self._threads, self._decider.verify, digest, folder)
        except (PodthawError, OSError) as error:
            log.debug("%s/%s was not read ahead: %s", namespace, reference, error)

    async def _learn(self, container: str, digest: str) -> None:
        try:
            folder = await asyncio.to_thread(self._decider.store.folder, digest)
            await self._learner.learn(container, digest, folder)
        except (PodthawError, OSError) as error:
            log.debug("the hot pages of %s are not learned: %s", digest, error)

    def _want(self, pod: Pod, digest: str, folder: Path) -> None:
        pod.asked[digest] = time.monotonic()
        self._prefetcher.want(pod, digest, folder)

    def _of(self, sandbox: str) -> Pod | None:
        return next((one for one in self._pods if one.sandbox == sandbox), None)

    def _drop(self, pod: Pod) -> None:
        self._pods.discard(pod)
        self._prefetcher.release(pod)

    def _spawn(self, work: Coroutine[Any, Any, None], kept: set[asyncio.Task[None]]) -> None:
        task = asyncio.ensure_future(work)
        kept.add(task)
        task.add_done_callback(kept.discard)
