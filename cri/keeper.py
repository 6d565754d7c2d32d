"""Keeps what belongs to a restore for as long as it is needed, and gives it back then.

A restore has a record with the plan and its images, a pin on its snapshot, and perhaps, when it
fails, a place in quarantine. All of that lies in files; the index is only to find them quickly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from cri import history
from cri.decide import Decider
from cri.index import Index
from cri.records import Record, Records, Start
from cri.rpc import RpcError
from cri.runtime import Runtime
from cri.telling import tell_outcome
from shim import plan, restore
from shim.errors import PodthawError
from shim.plan import Result

log = logging.getLogger("podthaw.restore")

_GRACE = 120.0  # seconds for which a record may be there before its sandbox shows
_STRAY = 3600.0  # seconds after which a plan that was never finished is cleared away
_POLL = 1.0  # seconds
TIDY = 10.0  # seconds that a call waits for tidying up; a shared store may hang
_KEPT_RUNS = 5  # restored runs of one container that are remembered


class Keeper:
    """Belongs to one event loop; what blocks runs in threads."""

    def __init__(self, records: Records, decider: Decider, runtime: Runtime) -> None:
        self.records = records
        self.decider = decider
        self.index = Index()
        self._runtime = runtime
        self._background: set[asyncio.Task[None]] = set()
        self._watching: set[asyncio.Task[None]] = set()

    async def load(self, patience: float) -> None:
        """Learn from the files what an earlier daemon knew; undo restores that died midway.

        Restores that ended while no daemon ran are concluded now, and those under way within
        ``patience`` seconds.
        """
        try:
            for line in await asyncio.to_thread(restore.recover, str(self.records.run)):
                log.warning("%s", line)
        except (OSError, PodthawError) as error:
            log.warning("restores that died midway cannot be looked for: %s", error)
        for record in await asyncio.to_thread(self.records.all):
            self.index.add(record)
            if record.decision.choice == "restore" and not record.concluded:
                self.watch(record.decision.id, patience)

    async def sweep(self) -> None:
        """Forget every record whose sandbox containerd does not know any more."""
        alive = {sandbox.id for sandbox in await self._runtime.list_pod_sandbox()}
        oldest = time.time() - _GRACE
        for record in await asyncio.to_thread(self.records.all):
            if record.decision.sandbox_id not in alive and record.decision.time < oldest:
                await self.forget(record)
        for record_id in await asyncio.to_thread(self.records.strays, time.time() - _STRAY):
            await self.quietly(self.records.remove, record_id)

    # The start of a container

    async def started(
        self, record_id: str, error: RpcError | None, start: Start | None = None
    ) -> Record | None:
        """Record what became of a restore, after containerd answered StartContainer.

        The record, when there was one to conclude.
        """
        try:
            record = await asyncio.to_thread(self._conclude, record_id, error, start)
        except (OSError, PodthawError) as problem:
            log.warning("the outcome of a restore cannot be recorded: %s", problem)
            return None
        if record is not None and record.result is not None:
            tell_outcome(record.decision, record.result)
        return record

    def watch(self, record_id: str, seconds: float) -> None:
        """Record the outcome of a start that nobody waits for, if there is one in time."""
        self._watching.add(self.spawn(self._started_late(record_id, seconds)))

    async def _started_late(self, record_id: str, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while plan.read_result(record_id, self.records.run) is None:  # noqa: ASYNC110 - a file
                await asyncio.sleep(_POLL)
        await self.started(record_id, None)

    def _conclude(
        self, record_id: str, error: RpcError | None, start: Start | None
    ) -> Record | None:
        if start is not None:
            self.records.note_start(record_id, start)
        record = self.records.get(record_id)
        if record is None or record.decision.choice != "restore" or record.concluded:
            return None
        if record.result is None:
            plan.write_result(record_id, _unasked(record, error), self.records.run)
            record = self.records.get(record_id)
        if record is None or record.result is None:
            return None
        result = record.result
        if result.kind == "broken":
            decision = record.decision
            pod = f"{decision.namespace}/{decision.pod}"
            self.decider.set_aside(decision.digest, pod, result.reason)
        if result.outcome != "restored":
            self.decider.release(record.decision.id, record.decision.digest)
            self.records.slim(record_id)
        self.records.conclude(record_id)
        return record

    # The end of a container or pod

    async def remove_container(self, record: Record) -> None:
        """Give back what a removed container needed; its run stays known to the history."""
        self.index.remove_container(record.container_id)
        await self.quietly(self._container_gone, record)

    def _container_gone(self, record: Record) -> None:
        decision = record.decision
        self.decider.release(decision.id, decision.digest)
        if record.outcome != "restored":
            self.records.remove(decision.id)
            return
        self.records.slim(decision.id)
        runs = self.records.of_container(decision.pod_uid, decision.container)
        over = [one for one in runs if one.outcome == "restored" and one.exit is not None]
        for one in over[:-_KEPT_RUNS]:
            self.records.remove(one.decision.id)

    async def stop_sandbox(self, sandbox: str) -> None:
        """Unpin what the containers of a stopped pod were restored from."""
        for record in await self._of_sandbox(sandbox):
            await self.note_end(record)
            await self.quietly(self.decider.release, record.decision.id, record.decision.digest)

    async def remove_sandbox(self, sandbox: str) -> None:
        """Forget a removed pod."""
        for record in await self._of_sandbox(sandbox):
            await self.forget(record)
        self.index.remove_sandbox(sandbox)

    async def _of_sandbox(self, sandbox: str) -> list[Record]:
        ids = self.index.of_sandbox(sandbox)
        found = [await asyncio.to_thread(self.records.get, record_id) for record_id in ids]
        return [record for record in found if record is not None]

    async def forget(self, record: Record) -> None:
        """Drop a record and its pin."""
        await self.quietly(self.discard, record.decision.id, record.decision.digest)
        self.index.remove(record)

    def discard(self, record_id: str, digest: str) -> None:
        """Drop a plan and its pin. Blocking."""
        self.decider.release(record_id, digest)
        self.records.remove(record_id)

    # How containers ended

    async def note_ends(self, pod_uid: str, container: str) -> None:
        """Learn how earlier runs of a container ended, while containerd still knows."""
        runs = await asyncio.to_thread(self.records.of_container, pod_uid, container)
        for record in history.unknown_ends(runs):
            await self.note_end(record)

    async def note_end(self, record: Record) -> None:
        """Learn how one run ended, if it did and was a restored one."""
        if not history.unknown_ends([record]):
            return
        try:
            status = (await self._runtime.container_status(record.container_id)).status
        except RpcError:
            return
        ended = history.exit_of(status.finished_at, status.exit_code)
        if ended is not None:
            await self.quietly(self.records.note_exit, record.decision.id, ended)

    # Threads and tasks

    async def quietly(self, work: Callable[..., None], *arguments: object) -> None:
        """Tidy up in a thread: what goes wrong with it, or hangs, must not fail a call."""
        task = self.spawn(asyncio.to_thread(work, *arguments))
        try:
            async with asyncio.timeout(TIDY):
                await asyncio.shield(task)
        except TimeoutError as error:
            reason = error.strerror or f"it takes more than {TIDY:g} s"
            log.warning("tidying up is not waited for: %s", reason)
        except (OSError, PodthawError) as error:
            log.warning("tidying up failed: %s", error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the calls."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        self._watching.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("what ran beside the calls ended with %s: %s", type(error).__name__, error)

    async def settle(self) -> None:
        """Wait for what runs beside the calls; what only waits is left to the next daemon."""
        for task in self._watching:
            task.cancel()
        while self._background:
            await asyncio.wait(self._background)


def _unasked(record: Record, error: RpcError | None) -> Result:
    """The outcome of a start in which the OCI runtime wrapper left no answer."""
    if error is not None:
        return Result(
            outcome="failed",
            container_id=record.container_id,
            reason=f"containerd did not start the container: {error.message}",
            kind="unfit",
            finished=time.time(),
        )
    return Result(
        outcome="cold",
        container_id=record.container_id,
        reason="containerd started the container without podthaw-runc: "
        "is it the BinaryName of the pod's runtime?",
        kind="unfit",
        finished=time.time(),
    )
