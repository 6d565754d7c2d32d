"""All CUDA processes of a container together: suspend, resume, and bring back after a failure."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from shim.cuda.calls import State
from shim.cuda.helper import Helper, StuckError
from shim.errors import Unfit
from shim.record import field, record

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from shim.cuda.helper import Answer

_ANSWER_SECONDS = 20.0
"""How long to wait for the driver where it has nothing to copy."""

LOCK_SECONDS = 10.0
"""How long the work that a process has given to the GPU may take to end."""

_POLL = 0.05

_SLOWEST = 1 << 30
"""Bytes a second at which the driver copies at the very least; 4 GB/s and more were measured."""

_ROUNDS = 5
"""How often new CUDA processes may turn up while the others are being locked."""


@record(kw_only=True)
class Suspended:
    """The processes whose device memory is in their ordinary memory now."""

    pids: list[int]
    phases: dict[str, float] = field(default_factory=dict)
    """``cuda_lock`` and ``cuda_checkpoint`` → seconds."""


def suspend(
    helper: Helper,
    list_pids: Callable[[], Collection[int]],
    announce: Callable[[list[int]], None],
    deadline: float,
) -> Suspended:
    """Lock every process of a container that uses CUDA, then checkpoint them all at once.

    ``list_pids`` lists the container's processes and is asked again after each lock, until no new
    one has begun to use CUDA; nothing of it may be frozen. ``announce`` gets the CUDA processes
    before they are touched, for whoever must bring them back. ``deadline`` is on
    :func:`time.monotonic`'s clock. Raises Unfit; the caller then calls :func:`bring_back`.
    """
    begun = time.monotonic()
    known: set[int] = set()
    for _ in range(_ROUNDS):
        states = helper.states(set(list_pids()) - known, deadline)
        if not states:
            break
        for pid, state in states.items():
            if state is not State.RUNNING:
                raise Unfit(
                    f"{name(pid)} is {state.name.lower()} for the NVIDIA driver, wanted running: "
                    "another program checkpoints it"
                )
            if is_stopped(pid):
                raise Unfit(f"{name(pid)} uses CUDA and is stopped by a signal, wanted running")
        known |= set(states)
        announce(sorted(known))
        seconds = max(0.0, min(LOCK_SECONDS, deadline - time.monotonic()))
        answers = helper.ask("lock", list(states), deadline, seconds=seconds)
        _all_well("locked", answers)
    else:
        raise Unfit("ever more processes begin to use CUDA while the others are being locked")
    locked = time.monotonic()
    if not known:
        return Suspended(pids=[])
    _all_well("checkpointed", helper.ask("checkpoint", known, deadline))
    return Suspended(
        pids=sorted(known),
        phases={
            "cuda_lock": round(locked - begun, 6),
            "cuda_checkpoint": round(time.monotonic() - locked, 6),
        },
    )


def restore(
    helper: Helper, pids: Collection[int], gpu_map: Mapping[str, str], deadline: float
) -> None:
    """Give every checkpointed process its device memory again, all at once; they stay locked.

    Raises Unfit.
    """
    _all_well("restored", helper.ask("restore", pids, deadline, gpu_map=gpu_map))


def restore_seconds(pids: Collection[int], proc: str = "/proc") -> float:
    """How long to wait for the driver to give checkpointed processes their device memory again.

    It is in their ordinary memory then, so that tells how much it may be.
    """
    size = 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            pages = int(_read(f"{proc}/{pid}/statm").split()[1])
            size += pages * os.sysconf("SC_PAGE_SIZE")
    return _ANSWER_SECONDS + size / _SLOWEST


def unlock(helper: Helper, pids: Collection[int], deadline: float) -> None:
    """Let locked processes run on. Raises Unfit."""
    _all_well("unlocked", helper.ask("unlock", pids, deadline))


def bring_back(
    how: str, processes: Mapping[int, int], *, patience: float = 60.0
) -> tuple[list[str], list[str]]:
    """Bring processes back to running, from whatever state, and see that they are.

    ``processes`` maps each to its start time (:func:`start_time`), so that another
    one of that number is not touched. It is tried for ``patience`` seconds, and a call that is
    under way then is waited for. Returns what was done, and what could not be. Safe to
    repeat. Never raises an expected error.
    """
    end = time.monotonic() + patience
    done: list[str] = []
    problems: dict[int, str] = {}
    helper: Helper | None = None
    try:
        while True:
            pids = [pid for pid, began in processes.items() if start_time(pid) == began]
            try:
                helper = helper or Helper(how)
                left = _advance(helper, pids, problems, done)
            except StuckError as error:  # it was killed; another one may get an answer
                helper, left = (
                    None,
                    {pid: problems.get(pid, f"cannot be reached: {error}") for pid in pids},
                )
            except Unfit as error:
                return done, [str(error)]
            if not left:
                return done, []
            if time.monotonic() >= end or all(state == _LOST for state in left.values()):
                return done, [f"{name(pid)} {why}" for pid, why in left.items()]
            time.sleep(_POLL)
    finally:
        if helper is not None:
            helper.close()


_LOST = "is lost: the NVIDIA driver gave up on it, and the container must be restarted"


def _advance(
    helper: Helper,
    pids: Collection[int],
    problems: dict[int, str],
    done: list[str],
) -> dict[int, str]:
    """Take each process a step further; returns those that do not run yet, with why."""
    states = helper.states(pids, time.monotonic() + _ANSWER_SECONDS)
    for call, state in (("restore", State.CHECKPOINTED), ("unlock", State.LOCKED)):
        ready = [pid for pid, found in states.items() if found is state]
        deadline = time.monotonic() + restore_seconds(ready)
        for answer in helper.ask(call, ready, deadline).values():
            if answer.code:
                problems[answer.pid] = f"cannot be brought back: {answer.why}"
            else:
                done.append(f"{'restored' if call == 'restore' else 'unlocked'} {name(answer.pid)}")
    return {
        pid: _LOST
        if state is State.FAILED
        else problems.get(pid, f"is still {state.name.lower()} for the NVIDIA driver")
        for pid, state in helper.states(pids, time.monotonic() + _ANSWER_SECONDS).items()
        if state is not State.RUNNING
    }


def _all_well(what: str, answers: Mapping[int, Answer]) -> None:
    failed = [answer for answer in answers.values() if answer.code]
    if failed:
        one = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise Unfit(
            f"the NVIDIA driver has not {what} {name(one.pid)}{more}: {one.why}",
            detail="\n".join(f"{name(other.pid)}: {other.why}" for other in failed[1:]),
        )


def name(pid: int, proc: str = "/proc") -> str:
    """A process as people know it: its number inside the container, and its program's name."""
    try:
        fields = _status(pid, proc)
    except OSError:
        return f"process {pid}"
    return f"process {_inner(fields, pid)} ({fields.get('Name', '').strip()})"


def inner_pid(pid: int, proc: str = "/proc") -> int:
    """The process's number inside the container; 0 when it is gone."""
    try:
        return _inner(_status(pid, proc), pid)
    except OSError:
        return 0


def is_stopped(pid: int, proc: str = "/proc") -> bool:
    """Whether a signal has stopped it: the driver would wait for it without end."""
    try:
        text = _read(f"{proc}/{pid}/stat")
    except OSError:
        return False
    return text[text.rfind(")") + 2 :][:1] in ("T", "t")


def start_time(pid: int, proc: str = "/proc") -> int | None:
    """As :func:`shim.container.start_time`, which takes more to import."""
    try:
        text = _read(f"{proc}/{pid}/stat")
    except OSError:
        return None
    fields = text[text.rfind(")") + 2 :].split()
    return None if fields[0] in "ZXx" else int(fields[19])


def _inner(fields: Mapping[str, str], pid: int) -> int:
    return int((fields.get("NSpid", "").split() or [str(pid)])[-1])


def _status(pid: int, proc: str) -> dict[str, str]:
    lines = _read(f"{proc}/{pid}/status").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
