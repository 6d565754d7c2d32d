"""``create`` of a container that has a plan: restore it, or leave things as they were.

The work is done by a child, so that whatever ends this process, SIGKILL included, somebody is
left who undoes it:

    podthaw-runc create        claims the plan, forks, waits; then exits, fails or becomes runc
      └─ worker                follows the plan; undoes it when anything goes wrong, or when
           │                   the process above is gone
           └─ runc restore     killed with the worker

What was changed stands in the journal (:mod:`shim.journal`) before it is changed. Should both be
killed, ``delete`` finds the journal and undoes it (:func:`before_delete`); so does the daemon
when it starts (:func:`recover`).
"""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from contextlib import suppress

from shim import cgroups, journal, mounts, plan, runlog, runtime, supervise, undo, worker
from shim.argv import Command
from shim.errors import PodthawError, Refused, Unfit
from shim.record import changed
from shim.times import Times

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_RESTORED, _NOT_RESTORED, _UNDO_FAILED = 0, 80, 81
"""Exit statuses of the worker."""

_SANDBOX = "io.kubernetes.cri.sandbox-id"
_NAME = "io.kubernetes.cri.container-name"


def create(command: Command, arguments: list[str], run: str) -> int:
    """``create`` with a bundle that mentions a plan. Returns the exit status, or becomes runc."""
    times = Times()
    spec = _spec(command)
    plan_id = (spec.get("annotations") or {}).get(plan.PLAN_ANNOTATION)
    if not isinstance(plan_id, str):  # the words stand elsewhere in the bundle
        runtime.execute(runtime.find(run), arguments)
    try:
        order = plan.read(plan_id, run)
        _check_identity(order, spec)
        plan.claim(plan_id, run)
    except Refused as error:
        return _fail(command, str(error))
    result = _restore(command, order, spec, run, times)
    if result.outcome == "cold":
        try:
            below = runtime.find(run, order.runtime)
        except runtime.NotFoundError as error:
            return _fail(command, str(error))
        phases = {**result.phases, "total": time.monotonic() - times.began}
        _answer(order, changed(result, phases=phases), run)
        discard_output()
        runtime.execute(below, arguments)
    if result.outcome == "restored":
        return 0
    _answer(order, result, run)
    return _fail(command, f"podthaw: {order.name} was not restored: {result.reason}")


def before_delete(command: Command, run: str) -> None:
    """What ``delete`` has to do before the runtime's own delete of a container with a journal.

    An unfinished restore is ended and undone. Raises nothing that stops the delete but OSError
    and Unfit: then mounts are left through which a delete could reach other data.
    """
    record = journal.load(run, command.id)
    if record is None:
        return
    if record.done:
        record.remove()
        return
    _undo_orphan(run, record, wait=20.0)


def recover(run: str = plan.DEFAULT_RUN) -> list[str]:
    """Undo every restore whose processes were killed; for the daemon, when it starts.

    Returns one line for each that was found, with the error where undoing failed.
    """
    lines = []
    try:
        names = sorted(os.listdir(f"{run}/restores"))
    except FileNotFoundError:
        return []
    for name in names:
        record = None if name.endswith((".lock", ".new", ".work")) else journal.load(run, name)
        if record is None or record.done:
            continue
        held = journal.lock(run, name)
        if held is None:
            continue  # it is under way
        try:
            undo.undo(record, start_follows=False)
            lines.append(f"took back the unfinished restore of container {name}")
        except (OSError, Unfit) as error:
            lines.append(f"the unfinished restore of container {name} stays: {error}")
        finally:
            os.close(held)
    return lines


def discard_output() -> None:
    """Empty the pipes that will be the container's output.

    runc reports a failed restore on them, and processes may have written before they were killed.
    Nobody reads them before the container is created, so all that is in them is ours.
    """
    for number in (1, 2):
        try:
            if not stat.S_ISFIFO(os.fstat(number).st_mode):
                continue
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            reader = os.open(f"/proc/self/fd/{number}", flags)
        except OSError:
            continue
        try:
            while os.read(reader, 1 << 16):
                pass
        except OSError:
            pass  # empty
        finally:
            os.close(reader)


def _undo_orphan(run: str, record: journal.Journal, *, wait: float) -> None:
    held = journal.lock(run, record.container)
    if held is None:
        if record.owner > 1:
            with suppress(ProcessLookupError):
                os.kill(record.owner, signal.SIGTERM)
        held = journal.lock(run, record.container, wait=wait)
    if held is None:
        raise Unfit(f"the restore of container {record.container} is still under way")
    try:
        latest = journal.load(run, record.container)
        if latest is not None and not latest.done:
            undo.undo(latest, start_follows=False)
        elif latest is not None:
            latest.remove()
    finally:
        os.close(held)


def _restore(
    command: Command, order: plan.Plan, spec: dict[str, Any], run: str, times: Times
) -> plan.Result:
    """Let a worker restore; afterwards the container is restored, or everything is undone."""
    try:
        record = _record(command, order, spec, run)
    except PodthawError as error:
        return _not_restored(command, order, error.kind, str(error))
    try:
        held = journal.lock(run, command.id)
        if held is None:
            reason = f"another restore of container {command.id} is under way"
            return _not_restored(command, order, "refused", reason)
        _begin(record, held)
    except OSError as error:
        reason = f"the run directory {run} cannot be written: {error.strerror}"
        return _not_restored(command, order, "unfit", reason)
    try:
        status = _wait_for_worker(record, order, spec, run, times)
        result = plan.read_result(order.id, run)
        if status == _RESTORED and result is not None:
            return result
        if status == _UNDO_FAILED and result is not None:
            return result
        left = journal.load(run, command.id)
        if left is not None:  # the worker was killed
            supervise.kill_children()
            undo.undo(left, start_follows=order.on_failure == "cold")
            result = None
        if result is None:
            reason = "the process that restored it was killed"
            return _not_restored(command, order, "unfit", reason)
        return result
    except (OSError, Unfit) as error:
        reason = f"an unfinished restore could not be undone: {error}"
        failed = _not_restored(command, order, "unfit", reason)
        return changed(failed, outcome="failed")
    finally:
        os.close(held)


def _begin(record: journal.Journal, held: int) -> None:
    """Write the record; when that fails nothing was changed, and nothing of it stays."""
    try:
        record.save()
    except OSError:
        record.remove()
        os.close(held)
        raise


def _wait_for_worker(
    record: journal.Journal, order: plan.Plan, spec: dict[str, Any], run: str, times: Times
) -> int:
    supervise.adopt_orphans()
    pid = os.fork()
    if pid == 0:
        supervise.adopt_orphans()
        os._exit(_work(record, order, spec, run, times))

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    if not supervise.ends_within(pid, order.restore_timeout + _UNDO_TIME):
        os.kill(pid, signal.SIGKILL)
        if not supervise.ends_within(pid, _KILL_TIME):
            raise Unfit("the process that restores it hangs in the kernel, on a disk that is gone")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


_UNDO_TIME = 90.0
"""Seconds beyond the plan's timeout that the worker may take to give everything back."""

_KILL_TIME = 10.0
"""Seconds for a killed process to end."""


def _work(
    record: journal.Journal, order: plan.Plan, spec: dict[str, Any], run: str, times: Times
) -> int:
    """The worker's whole life; its return value is its exit status."""
    parent = os.getppid()
    signals = worker.Signals()
    supervise.die_with_parent(signal.SIGTERM)
    try:
        worker.check_parent(parent)
        record.owner = os.getpid()
        record.save()
        times.note("claim", times.loaded, is_phase=False)
        worker.follow(record, order, spec, run, times)
        worker.check_parent(parent)
        _answer(order, _restored(record, times), run)
        record.done = True
        record.save()
        return _RESTORED
    except BaseException as error:  # noqa: BLE001 - nothing may pass the undo
        signals.ignore()
        return _give_back(record, order, error, times, run)


def _give_back(
    record: journal.Journal,
    order: plan.Plan,
    error: BaseException,
    times: Times,
    run: str,
) -> int:
    supervise.kill_children()
    kind, reason, tail = worker.describe(error, record, run)
    interrupted = isinstance(error, worker.InterruptedRestoreError)
    cold = order.on_failure == "cold" and kind != "refused" and not interrupted
    status, begun = _NOT_RESTORED, time.monotonic()
    try:
        undo.undo(record, start_follows=not interrupted)
    except (OSError, Unfit) as problem:
        cold, status = False, _UNDO_FAILED
        reason = f"{reason}; and it could not be undone: {problem}"
    times.note("undo", begun)
    result = plan.Result(
        outcome="cold" if cold else "failed",
        container_id=record.container,
        reason=reason,
        kind=kind,
        log_tail=tail,
        phases=times.phases,
        began=times.began,
        stages=times.stages,
        finished=time.time(),
    )
    _answer(order, result, run)
    return status


def _record(command: Command, order: plan.Plan, spec: dict[str, Any], run: str) -> journal.Journal:
    bundle = os.path.abspath(command.options.get("bundle") or ".")
    root = str((spec.get("root") or {}).get("path") or "rootfs")
    try:
        below = runtime.find(run, order.runtime)
    except runtime.NotFoundError as error:
        raise Unfit(str(error)) from error
    pid_file = command.options.get("pid-file", "")
    return journal.Journal(
        container=command.id,
        plan=order.id,
        root=os.path.abspath(command.root),
        bundle=bundle,
        runtime=below,
        global_options=command.global_options,
        cgroups=cgroups.directories(
            spec,
            command.id,
            mounts.read(containing=" - cgroup"),
            systemd=_is_systemd(command.global_options),
        ),
        rootfs_path=os.path.realpath(os.path.join(bundle, root)),
        pid_file=os.path.abspath(pid_file) if pid_file else "",
        path=journal.path_of(run, command.id),
    )


def _is_systemd(global_options: list[str]) -> bool:
    found = False
    for option in global_options:
        name, _, value = option.lstrip("-").partition("=")
        if option.startswith("-") and name == "systemd-cgroup":
            found = value.lower() not in ("0", "f", "false")
    return found


def _spec(command: Command) -> dict[str, Any]:
    """The bundle's configuration; empty when it is none (the runtime below will say so)."""
    path = os.path.join(command.options.get("bundle", ""), "config.json")
    try:
        with open(path, "rb") as file:
            spec = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return spec if isinstance(spec, dict) else {}


def _check_identity(order: plan.Plan, spec: dict[str, Any]) -> None:
    annotations = spec.get("annotations") or {}
    for name, wanted, what in (
        (_SANDBOX, order.sandbox_id, "pod sandbox"),
        (_NAME, order.container, "container"),
    ):
        found = annotations.get(name)
        if found != wanted:
            raise Refused(
                f"the plan {order.id} is for the {what} {wanted}, and this is {found or 'none'}"
            )


def _restored(record: journal.Journal, times: Times) -> plan.Result:
    return plan.Result(
        outcome="restored",
        container_id=record.container,
        phases=times.phases,
        finished=time.time(),
        began=times.began,
        stages=times.stages,
    )


def _not_restored(command: Command, order: plan.Plan, kind: str, reason: str) -> plan.Result:
    cold = order.on_failure == "cold" and kind != "refused"
    return plan.Result(
        outcome="cold" if cold else "failed",
        container_id=command.id,
        reason=reason,
        kind=kind,
        finished=time.time(),
    )


def _answer(order: plan.Plan, result: plan.Result, run: str) -> None:
    """Leave the result; a full disk must not turn a restored container into a failed one."""
    try:
        plan.write_result(order.id, result, run)
    except OSError as error:
        runlog.error(f"podthaw: the result of plan {order.id} cannot be written: {error}")


def _fail(command: Command, message: str) -> int:
    runlog.error(message, command.log, command.log_format)
    return 1
