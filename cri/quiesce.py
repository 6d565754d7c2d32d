"""The hooks around a capture: the workload is told before it is frozen, and woken afterwards.

A workload that has made itself ready for its capture must not stay so: whenever the hook before
the capture was begun, the hook after a restore is carried out in the original, too, whether the
capture succeeded or not, unless the container has ended with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from cri import annotations as wishes
from cri.rpc import RpcError, StatusCode
from cri.runtime_client import SyncRuntimeClient
from cri.target import Target
from shim import hooks
from shim.container import start_time
from shim.dumprun import CaptureFailed
from shim.errors import PodthawError, Unfit
from shim.finding import Finding
from shim.hooks import Hook


class Options(Protocol):
    """What is needed of :class:`cri.capture.Options`."""

    @property
    def stop(self) -> bool:
        """Whether the container ends with its capture."""

    @property
    def timeout(self) -> float:
        """Seconds for the hook before the capture and the dump together."""

    @property
    def containerd(self) -> str:
        """Containerd's socket."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """The hooks of one container."""

    before: Hook | None = None
    after: Hook | None = None

    @classmethod
    def of(cls, target: Target) -> Hooks:
        """Those that the pod's annotations name; Refused when one is malformed."""
        asked, name = dict(target.sandbox.annotations), target.name
        return cls(
            before=wishes.hook_of(asked, wishes.BEFORE_CAPTURE, name),
            after=wishes.hook_of(asked, wishes.AFTER_RESTORE, name),
        )


@dataclass(kw_only=True)
class Told:
    """What the hooks have come to."""

    left: float
    """Seconds that are left for the dump."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds: ``hook`` before the capture, ``wake`` after it."""
    warnings: list[Finding] = field(default_factory=list)


@contextmanager
def quiesced(target: Target, wanted: Hooks, options: Options) -> Iterator[Told]:
    """A block in which the workload knows that it is being captured.

    Raises CaptureFailed when the hook before the capture fails.
    """
    told = Told(left=options.timeout)
    if wanted.before is None:
        yield told
        return
    place = _place(target, options.containerd)
    begun = time.monotonic()
    try:
        _tell(wanted.before, place, begun + options.timeout)
        told.phases["hook"] = time.monotonic() - begun
        told.left = max(0.001, options.timeout - told.phases["hook"])
        yield told
    except BaseException as error:
        problem = _wake(wanted.after, place, told)
        if problem is not None and isinstance(error, PodthawError):
            error.detail = "\n".join([*filter(None, [error.detail]), str(problem)])
        raise
    if options.stop:
        return
    problem = _wake(wanted.after, place, told)
    if problem is not None:
        told.warnings.append(problem)


def _tell(hook: Hook, place: hooks.Place, deadline: float) -> None:
    try:
        hooks.run(hook, place, deadline)
    except Unfit as error:
        raise CaptureFailed(
            f"the hook {wishes.BEFORE_CAPTURE} failed, nothing was frozen: {error}",
            detail=error.detail,
        ) from error


def _wake(hook: Hook | None, place: hooks.Place, told: Told) -> Finding | None:
    """Wake the original; what is to be said when that fails."""
    if hook is None:
        return None
    begun = time.monotonic()
    try:
        hooks.run(hook, place, begun + hooks.SECONDS)
    except Unfit as error:
        return Finding(
            check=wishes.AFTER_RESTORE.removeprefix(wishes.PREFIX),
            severity="warn",
            what="the captured container",
            why=f"it may still be as {wishes.BEFORE_CAPTURE} left it: {error}",
            remedy="wake it by hand or restart it",
        )
    finally:
        told.phases["wake"] = time.monotonic() - begun
    return None


def _place(target: Target, containerd: str) -> hooks.Place:
    container = target.container

    def execute(command: list[str], deadline: float) -> tuple[int, str]:
        with SyncRuntimeClient(containerd) as cri:
            try:
                answer = cri.exec_sync(container.id, command, deadline - time.monotonic())
            except RpcError as error:
                if error.code == StatusCode.DEADLINE_EXCEEDED:
                    raise TimeoutError from None
                raise Unfit(
                    f"{command[0]} was not run in the container: {error.message}"
                ) from error
            except OSError as error:
                raise Unfit(f"containerd cannot be reached: {error.strerror or error}") from error
        printed = answer.stdout[-_KEPT:] + b"\n" + answer.stderr[-_KEPT:]
        return answer.exit_code, printed.decode(errors="replace")

    return hooks.Place(
        address=next(iter(target.addresses), hooks.HOST),
        pid=container.pid,
        is_first=lambda: start_time(container.pid) == container.started,
        execute=execute,
    )


_KEPT = 4096  # bytes of each stream of a hook's program
