"""What happens at which CRI call: the hooks and filters that the relay calls.

    RunPodSandbox        a pod that opted in gets a runtime handler of ours and plain TCP; reading
                         ahead begins
    CreateContainer      restore, or not (:mod:`cri.creation`); the plan goes into the request
    StartContainer       forwarded; then what the OCI runtime wrapper answered is recorded
    CheckpointContainer  ``podthaw capture`` in a process of its own
    RemoveContainer, StopPodSandbox, RemovePodSandbox
                         what was kept for the container or pod is given back
    answers that show a sandbox
                         the runtime handler is shown as kubelet asked for it

A call that has nothing to do with Podthaw is forwarded as it came. All that is known lies in
files (:mod:`cri.records`), so a daemon that is restarted goes on where the old one stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from cri import annotations as wishes
from cri import capturing, mptcp
from cri.ahead import Ahead
from cri.creation import Creation
from cri.decide import Decider
from cri.handlers import Handlers
from cri.keeper import Keeper
from cri.messages import first_id, parse
from cri.proto import cri_pb2 as pb
from cri.records import Records, Start
from cri.rpc import Call, ResponseFilter, RpcError, StatusCode, UnaryHook
from cri.runtime import Options, Runtime
from cri.store import Store
from shim.errors import PodthawError

log = logging.getLogger("podthaw.restore")

_RUNTIME = "/runtime.v1.RuntimeService/"
_UNDO = 60.0  # seconds that a restore may take to be undone after its time was up
_MARK = wishes.PREFIX.encode()


class Interceptor:
    """Hooks and filters for :class:`cri.relay.Relay`; all methods belong to one event loop."""

    def __init__(self, options: Options, store: Store, runtime: Runtime) -> None:
        records = Records(options.run)
        self._options = options
        self._runtime = runtime
        self._patience = options.restore_timeout + _UNDO
        self._handlers = Handlers(options.handlers)
        self._decider = Decider(store, records, options.state, options.criu)
        self._keeper = Keeper(records, self._decider, runtime)
        self._ahead = Ahead(self._decider, options)
        self._creation = Creation(options, self._keeper, self._handlers, runtime, self._ahead)

    def hooks(self) -> Mapping[str, UnaryHook]:
        """What answers a method's calls in containerd's stead."""
        return {
            _RUNTIME + "RunPodSandbox": self._run_pod_sandbox,
            _RUNTIME + "CreateContainer": self._creation,
            _RUNTIME + "StartContainer": self._start_container,
            _RUNTIME + "CheckpointContainer": self._checkpoint_container,
            _RUNTIME + "RemoveContainer": self._remove_container,
            _RUNTIME + "StopPodSandbox": self._stop_pod_sandbox,
            _RUNTIME + "RemovePodSandbox": self._remove_pod_sandbox,
        }

    def filters(self) -> Mapping[str, ResponseFilter]:
        """What rewrites a method's responses."""
        return {
            _RUNTIME + "PodSandboxStatus": self._handlers.sandbox_status,
            _RUNTIME + "ListPodSandbox": self._handlers.sandbox_list,
            _RUNTIME + "StreamPodSandboxes": self._handlers.sandbox_stream,
            _RUNTIME + "GetContainerEvents": self._handlers.container_event,
        }

    async def start(self) -> None:
        """Learn from the files what an earlier daemon knew; before the first call is served."""
        await self._keeper.load(self._patience)

    async def keep_tidy(self, interval: float = 60.0) -> None:
        """Forget pods that are gone, now and every ``interval`` seconds, until cancelled."""
        while True:
            try:
                await self.sweep()
            except (RpcError, OSError, PodthawError) as error:
                log.debug("vanished pods were not looked for: %s", error)
            await asyncio.sleep(interval)

    async def sweep(self) -> None:
        """Forget everything of sandboxes that containerd does not know any more."""
        await self._keeper.sweep()
        known = self._ahead.sandboxes()
        for gone in known - {one.id for one in await self._runtime.list_pod_sandbox()}:
            self._ahead.release(gone)

    async def stop(self) -> None:
        """Wait for what runs beside the calls; reading ahead ends."""
        await self._ahead.stop()
        await self._keeper.settle()

    async def _run_pod_sandbox(self, call: Call) -> bytes:
        if _MARK not in call.request:
            return await call.forward()
        request = parse(pb.RunPodSandboxRequest, call.request)
        if request is None:
            return await call.forward()
        asked = dict(request.config.annotations)
        metadata = request.config.metadata
        for warning in wishes.read(asked, "", self._options.defaults).warnings:
            log.warning("%s/%s: %s", metadata.namespace, metadata.name, warning)
        if not wishes.opted_in(asked):
            return await call.forward()
        ours = self._handlers.replacement(request.runtime_handler)
        trouble = ""
        if ours is None:
            trouble = (
                f"Podthaw stands in for no runtime handler {request.runtime_handler!r}; "
                "the table `handlers` of its configuration says for which it does"
            )
        elif not await self._is_configured(ours):
            trouble = (
                f"containerd has no runtime {ours!r}; "
                "is Podthaw's drop-in part of containerd's configuration?"
            )
        if ours is None or trouble:
            log.warning(
                "%s/%s: its containers start cold: %s", metadata.namespace, metadata.name, trouble
            )
            return await call.forward()
        request.runtime_handler = ours
        if self._options.has_mptcp:
            mptcp.switch_off(request.config)
        references = [str(reference) for reference in wishes.snapshots(asked)]
        with self._ahead.expecting(metadata.namespace, references) as pod:
            answer = await call.forward(request.SerializeToString())
            self._ahead.bind(pod, first_id(answer))
        return answer

    async def _is_configured(self, handler: str) -> bool:
        """Whether containerd knows a runtime handler; one that does not tell is believed to.

        Without this a pod that asks for a restore could not even start cold on a node where
        Podthaw's runtimes are missing.
        """
        try:
            known = {one.name for one in (await self._runtime.status()).runtime_handlers}
        except RpcError:
            return True
        return not known or handler in known

    async def _start_container(self, call: Call) -> bytes:
        container = first_id(call.request)
        record_id = self._keeper.index.of_container(container)
        if record_id is None:
            return await call.forward()
        began = time.monotonic()
        try:
            with self._ahead.restoring():
                answer = await call.forward()
        except RpcError as error:
            start = Start(began=began, ended=time.monotonic())
            await self._keeper.started(record_id, error, start)
            raise
        except asyncio.CancelledError:
            self._keeper.watch(record_id, self._patience)
            raise
        start = Start(began=began, ended=time.monotonic())
        self._ahead.started(await self._keeper.started(record_id, None, start))
        return answer

    async def _checkpoint_container(self, call: Call) -> bytes:
        request = parse(pb.CheckpointContainerRequest, call.request)
        if request is None:
            return await call.forward()
        try:
            await self._runtime.container_status(request.container_id)
        except RpcError as error:
            call.abort(error.code, error.message)  # as containerd itself would answer
        problem = await capturing.capture(
            self._options.capture,
            request.container_id,
            request.location,
            float(request.timeout) or call.remaining(),
        )
        if problem:
            call.abort(StatusCode.FAILED_PRECONDITION, problem)
        return pb.CheckpointContainerResponse().SerializeToString()

    async def _remove_container(self, call: Call) -> bytes:
        container = first_id(call.request)
        record_id = self._keeper.index.of_container(container)
        if record_id is None:
            return await call.forward()
        record = await asyncio.to_thread(self._keeper.records.get, record_id)
        if record is None:
            return await call.forward()
        await self._keeper.note_end(record)
        answer = await call.forward()
        await self._keeper.remove_container(record)
        return answer

    async def _stop_pod_sandbox(self, call: Call) -> bytes:
        sandbox = first_id(call.request)
        self._ahead.release(sandbox)
        answer = await call.forward()
        await self._keeper.stop_sandbox(sandbox)
        return answer

    async def _remove_pod_sandbox(self, call: Call) -> bytes:
        sandbox = first_id(call.request)
        self._ahead.release(sandbox)
        answer = await call.forward()
        await self._keeper.remove_sandbox(sandbox)
        return answer
