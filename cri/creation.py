"""CreateContainer: the decision is made, recorded, and put into the request."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cri import annotations as wishes
from cri.ahead import Ahead
from cri.annotations import Reading
from cri.decide import Ask, NotMeantError, Ready
from cri.fitness import resolve_command
from cri.handlers import Handlers
from cri.images import entrypoint_and_cmd
from cri.keeper import Keeper
from cri.messages import first_id, parse
from cri.prepare import Policy, Target
from cri.proto import cri_pb2 as pb
from cri.records import Decision, Record, new_id
from cri.rpc import Call, RpcError, StatusCode
from cri.runtime import Options, Runtime
from cri.store.refs import shown
from cri.telling import tell_decision
from shim.errors import PodthawError, Unfit
from shim.plan import PLAN_ANNOTATION

log = logging.getLogger("podthaw.restore")

_MARK = wishes.PREFIX.encode()

PATIENCE = 60.0
"""Seconds for a decision where the call has no deadline: a shared store may not answer at all,
and then an ordinary start is better than none."""

SHARE = 0.5
"""Of the time that the caller grants; the rest is for containerd to create the container."""


class Creation:
    """The hook of CreateContainer."""

    def __init__(
        self,
        options: Options,
        keeper: Keeper,
        handlers: Handlers,
        runtime: Runtime,
        ahead: Ahead,
    ) -> None:
        self._options = options
        self._keeper = keeper
        self._decider = keeper.decider
        self._records = keeper.records
        self._handlers = handlers
        self._runtime = runtime
        self._ahead = ahead

    async def __call__(self, call: Call) -> bytes:
        """Answer a CreateContainer call."""
        if _MARK not in call.request:
            return await call.forward()
        request = parse(pb.CreateContainerRequest, call.request)
        if request is None:
            return await call.forward()
        if PLAN_ANNOTATION in request.config.annotations:
            call.abort(
                StatusCode.INVALID_ARGUMENT,
                f"podthaw: the container annotation {PLAN_ANNOTATION} is Podthaw's own to set",
            )
        asked = dict(request.sandbox_config.annotations)
        reading = wishes.read(asked, request.config.metadata.name, self._options.defaults)
        if not reading.meant:
            return await call.forward()
        return await self._decide(call, request, reading)

    async def _decide(
        self, call: Call, request: pb.CreateContainerRequest, reading: Reading
    ) -> bytes:
        began = time.monotonic()
        decision = _decision(new_id(), request, reading, began)
        problem: PodthawError
        remaining = call.remaining()
        patience = PATIENCE if remaining is None else min(PATIENCE, remaining * SHARE)
        try:
            async with asyncio.timeout(patience):
                decision = replace(decision, digest=await self._resolve(request, reading))
                resolved = time.monotonic()
                ask = await self._ask(request, reading)
                asked = time.monotonic()
                ready = await self._prepare(decision, ask)
                ends = resolved, asked, time.monotonic()
        except NotMeantError as error:
            log.debug("container %s starts cold: %s", decision.container, error)
            return await call.forward()
        except PodthawError as error:
            problem = error
        except TimeoutError:
            # What hangs clears its own plan away when it ends at last.
            decision = replace(decision, id=new_id())
            problem = Unfit(f"the snapshot could not be read and checked within {patience:.3g} s")
        except RpcError as error:
            problem = Unfit(f"containerd did not answer a question about the pod: {error.message}")
        except Exception as error:
            log.exception("deciding on a restore failed")
            problem = Unfit(f"Podthaw failed: {type(error).__name__}: {error}")
        else:
            took = round(time.monotonic() - began, 6)
            decision = replace(decision, seconds=took, steps=_steps(began, *ends))
            return await self._restore(call, request, decision, ready)
        return await self._no_restore(
            call,
            replace(
                decision,
                choice=reading.on_failure,
                kind=problem.kind,
                reason=str(problem),
                seconds=round(time.monotonic() - began, 6),
            ),
        )

    async def _resolve(self, request: pb.CreateContainerRequest, reading: Reading) -> str:
        if reading.problem is not None:
            raise reading.problem
        assert reading.wish is not None  # noqa: S101 - a reading has one of the two
        namespace = request.sandbox_config.metadata.namespace
        return await asyncio.to_thread(
            self._decider.resolve, namespace, str(reading.wish.reference)
        )

    async def _ask(self, request: pb.CreateContainerRequest, reading: Reading) -> Ask:
        """Gather what the decision needs; asks containerd about sandbox and image."""
        assert reading.wish is not None  # noqa: S101 - resolved before
        sandbox_answer, image_answer = await asyncio.gather(
            self._runtime.pod_sandbox_status(request.pod_sandbox_id),
            self._runtime.image_status(request.config.image, verbose=True),
        )
        sandbox = sandbox_answer.status
        if sandbox.runtime_handler not in self._handlers.ours:
            raise Unfit(
                f"the pod's sandbox has the runtime handler {sandbox.runtime_handler!r}, "
                f"wanted one of {', '.join(sorted(self._handlers.ours))}"
            )
        if not image_answer.image.id:
            raise Unfit(
                f"the container's image {shown(request.config.image.image)} is not on this node"
            )
        of_image = entrypoint_and_cmd(image_answer.info)
        command = None
        if request.config.command or of_image is not None:
            command = resolve_command(
                request.config.command, request.config.args, *(of_image or ([], []))
            )
        return Ask(
            wish=reading.wish,
            target=_target(request, sandbox),
            policy=Policy(
                tcp=reading.wish.tcp,
                on_failure=reading.on_failure,
                restore_timeout=self._options.restore_timeout,
                runtime=self._options.runtime,
                criu=self._options.criu,
                cuda=self._options.cuda,
                after_restore=reading.wish.after_restore,
            ),
            image_id=image_answer.image.id,
            command=command,
            config=request.config,
        )

    async def _prepare(self, decision: Decision, ask: Ask) -> Ready:
        """Prepare in a thread; when the client goes away meanwhile, nothing of it stays."""
        await self._keeper.note_ends(ask.target.pod_uid, ask.target.container)

        def work() -> Ready:
            self._records.create(decision.id)
            try:
                return self._decider.prepare(decision.id, decision.digest, ask)
            except BaseException:
                self._records.remove(decision.id)
                raise

        async def drop() -> None:
            with suppress(PodthawError, NotMeantError, OSError):
                await task
            await self._keeper.quietly(self._keeper.discard, decision.id, decision.digest)

        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._keeper.spawn(drop())
            raise

    async def _restore(
        self, call: Call, request: pb.CreateContainerRequest, decision: Decision, ready: Ready
    ) -> bytes:
        request.config.annotations[PLAN_ANNOTATION] = decision.id
        self._ahead.again(decision.sandbox_id, decision.digest, Path(ready.plan.snapshot_dir))
        try:
            await asyncio.to_thread(self._records.decide, decision)
            answer = await call.forward(request.SerializeToString())
        except BaseException:
            # Not created, so never started: the plan is void.
            self._keeper.spawn(
                self._keeper.quietly(self._keeper.discard, decision.id, decision.digest)
            )
            raise
        await self._bind(decision, answer)
        tell_decision(
            decision,
            "is about to be restored",
            connections_closed=ready.sockets.closed,
            sockets_moved=ready.sockets.moved,
            bytes_verified=ready.read,
        )
        return answer

    async def _no_restore(self, call: Call, decision: Decision) -> bytes:
        self._ahead.release(decision.sandbox_id, decision.digest)
        await self._write(decision)
        if decision.choice == "fail":
            tell_decision(decision, "is not started")
            call.abort(
                StatusCode.FAILED_PRECONDITION,
                f"podthaw: {decision.snapshot} was not restored: {decision.reason}",
            )
        tell_decision(decision, "starts cold and not")
        try:
            answer = await call.forward()
        except BaseException:
            self._keeper.spawn(self._keeper.quietly(self._records.remove, decision.id))
            raise
        await self._bind(decision, answer)
        return answer

    async def _write(self, decision: Decision) -> None:
        """Write a decision not to restore, in place of earlier ones that came to nothing."""

        def work() -> None:
            for record in self._records.of_container(decision.pod_uid, decision.container):
                if record.decision.choice == "fail":
                    self._records.remove(record.decision.id)
            self._records.decide(decision)

        self._keeper.index.add(Record(decision=decision))
        await self._keeper.quietly(work)

    async def _bind(self, decision: Decision, answer: bytes) -> None:
        created, container = time.monotonic(), first_id(answer)
        self._keeper.index.add(Record(decision=decision, container_id=container))
        await self._keeper.quietly(self._records.bind, decision.id, container, created)


def _target(request: pb.CreateContainerRequest, sandbox: pb.PodSandboxStatus) -> Target:
    metadata = request.sandbox_config.metadata
    addresses = [sandbox.network.ip, *(one.ip for one in sandbox.network.additional_ips)]
    return Target(
        namespace=metadata.namespace,
        pod=metadata.name,
        pod_uid=metadata.uid,
        sandbox_id=request.pod_sandbox_id,
        container=request.config.metadata.name,
        attempt=request.config.metadata.attempt,
        hostname=request.sandbox_config.hostname,
        addresses=[address for address in addresses if address],
    )


def _log(request: pb.CreateContainerRequest) -> str:
    name = request.config.log_path
    return str(Path(request.sandbox_config.log_directory) / name) if name else ""


def _steps(began: float, resolved: float, asked: float, prepared: float) -> dict[str, float]:
    ends = {"resolve": (began, resolved), "ask": (resolved, asked), "prepare": (asked, prepared)}
    return {name: round(end - begin, 6) for name, (begin, end) in ends.items()}


def _decision(
    record_id: str, request: pb.CreateContainerRequest, reading: Reading, began: float
) -> Decision:
    """The decision as it is when all goes well."""
    metadata = request.sandbox_config.metadata
    return Decision(
        id=record_id,
        time=time.time(),
        namespace=metadata.namespace,
        pod=metadata.name,
        pod_uid=metadata.uid,
        sandbox_id=request.pod_sandbox_id,
        container=request.config.metadata.name,
        attempt=request.config.metadata.attempt,
        snapshot=reading.text,
        choice="restore",
        warnings=list(reading.warnings),
        began=began,
        log=_log(request),
    )
