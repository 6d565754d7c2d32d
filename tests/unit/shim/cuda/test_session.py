from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.cuda import session
from shim.cuda.calls import State
from shim.cuda.helper import Helper, StuckError
from shim.errors import Unfit
from tests.unit.shim.cuda.conftest import Fake

Announced = list[list[int]]


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def suspend(
    programs: list[subprocess.Popen[bytes]],
    announce: Callable[[list[int]], None] = lambda _: None,
    seconds: float = 10.0,
) -> session.Suspended:
    pids = [program.pid for program in programs]
    with Helper() as helper:
        return session.suspend(helper, lambda: [*pids, 1, os.getpid()], announce, soon(seconds))


def states(fake: Fake) -> list[State]:
    with Helper() as helper:
        return list(helper.states([program.pid for program in fake.started], soon()).values())


def back(fake: Fake, patience: float = 10.0) -> tuple[list[str], list[str]]:
    times = {pid: at for program in fake.started for pid, at in fake.times(program).items()}
    return session.bring_back("driver", times, patience=patience)


def test_every_lock_comes_before_the_first_checkpoint(fake: Fake) -> None:
    programs = [fake.start() for _ in range(3)]
    announced: Announced = []
    done = suspend(programs, announced.append)
    pids = sorted(program.pid for program in programs)
    assert done.pids == pids
    assert announced == [pids]
    assert set(done.phases) == {"cuda_lock", "cuda_checkpoint"}
    assert [line[0] for line in fake.log()] == ["lock"] * 3 + ["checkpoint"] * 3
    last = max(line[3] for line in fake.log() if line[0] == "lock")
    assert last < min(line[2] for line in fake.log() if line[0] == "checkpoint")
    assert states(fake) == [State.CHECKPOINTED] * 3
    with Helper() as helper:
        session.restore(helper, pids, {}, soon())
        assert states(fake) == [State.LOCKED] * 3
        session.unlock(helper, pids, soon())
    for program in programs:
        fake.goes_on(program)


def test_without_users_of_cuda_nothing_happens(fake: Fake) -> None:
    announced: Announced = []
    assert suspend([], announced.append).pids == []
    assert announced == []
    assert not (fake.home / "log").exists()


def test_a_process_that_begins_to_use_cuda_meanwhile(fake: Fake) -> None:
    first, later = fake.start(), fake.start()
    asked: list[list[int]] = [[first.pid], [first.pid, later.pid], [first.pid, later.pid]]
    announced: Announced = []
    with Helper() as helper:
        done = session.suspend(helper, lambda: asked.pop(0), announced.append, soon())
    assert done.pids == sorted([first.pid, later.pid])
    assert announced == [[first.pid], sorted([first.pid, later.pid])]
    assert states(fake) == [State.CHECKPOINTED] * 2
    back(fake)


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
def test_the_second_of_three_fails(fake: Fake, call: str) -> None:
    programs = [fake.start() for _ in range(3)]
    fake.fault(call, "error 999 0 1", programs[1].pid)
    with pytest.raises(Unfit, match=rf"process {programs[1].pid} .*does not say why"):
        suspend(programs)
    done, problems = back(fake)
    assert problems == []
    assert len(done) == (2 if call == "lock" else 2 * 2 + 1)
    assert states(fake) == [State.RUNNING] * 3
    for program in programs:
        fake.goes_on(program)


@pytest.mark.parametrize("call", ["lock", "checkpoint"])
def test_a_driver_that_is_stuck(fake: Fake, call: str) -> None:
    programs = [fake.start() for _ in range(2)]
    fake.fault(call, "hang 0 0 1", programs[0].pid)
    with pytest.raises(StuckError, match=f"{call} of process {programs[0].pid}"):
        suspend(programs, seconds=1.0)
    assert back(fake)[1] == []
    for program in programs:
        fake.goes_on(program)


def test_one_that_somebody_else_checkpoints(fake: Fake) -> None:
    program = fake.start()
    suspend([program])
    announced: Announced = []
    with pytest.raises(Unfit, match="is checkpointed for the NVIDIA driver, wanted running"):
        suspend([program], announced.append)
    assert announced == []
    back(fake)


def test_a_stopped_process_is_not_locked(fake: Fake) -> None:
    """The driver would lock it when it goes on, long after everybody has given up."""
    program = fake.start()
    with Helper() as helper:
        helper.states([program.pid], soon())
        answers = helper.ask("state", [program.pid], soon())
        assert answers[program.pid].state is State.RUNNING
        program.send_signal(signal.SIGSTOP)
        while not session.is_stopped(program.pid):
            time.sleep(0.01)
        with pytest.raises(Unfit):
            session.suspend(helper, lambda: [program.pid], lambda _: None, soon(0.5))
    program.send_signal(signal.SIGCONT)
    fake.goes_on(program)
    assert states(fake) == [State.RUNNING]


def test_bringing_back_tries_again(fake: Fake) -> None:
    program = fake.start()
    suspend([program])
    fake.fault("restore", "error 999 0 2")
    fake.fault("unlock", "error 999 0 2")
    done, problems = back(fake)
    assert problems == []
    assert len(done) == 2
    fake.goes_on(program)


def test_bringing_back_after_a_stuck_call(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake.start()
    suspend([program])
    fake.fault("restore", "hang 0 0 1")
    monkeypatch.setattr(session, "_ANSWER_SECONDS", 0.7)
    assert back(fake)[1] == []
    fake.goes_on(program)


def test_what_cannot_be_brought_back_is_told(fake: Fake) -> None:
    program = fake.start()
    suspend([program])
    fake.fault("restore", "error 2 0 -1")
    begun = time.monotonic()
    _, problems = back(fake, patience=0.5)
    assert time.monotonic() - begun < 5.0
    assert len(problems) == 1
    assert "too little free memory" in problems[0]


def test_a_lost_process_is_told_at_once(fake: Fake) -> None:
    program = fake.start()
    fake.fault("checkpoint", "lost 0 0 1")
    with pytest.raises(Unfit):
        suspend([program])
    begun = time.monotonic()
    _, problems = back(fake)
    assert time.monotonic() - begun < 5.0
    assert "gave up on it" in problems[0]


def test_another_process_of_that_number_is_not_touched(fake: Fake) -> None:
    program = fake.start()
    suspend([program])
    assert session.bring_back("driver", {program.pid: 1}) == ([], [])
    assert states(fake) == [State.CHECKPOINTED]


def test_without_a_driver_the_processes_are_told_as_not_brought_back(fake: Fake) -> None:
    program = fake.start()
    done, problems = session.bring_back("/nowhere/cuda-checkpoint", fake.times(program))
    assert done == []
    assert "/nowhere/cuda-checkpoint" in problems[0]


def test_two_who_bring_back_at_once(fake: Fake) -> None:
    """The capture and its guardian, for example: both end, and the process runs."""
    programs = [fake.start() for _ in range(2)]
    suspend(programs)
    threads = [threading.Thread(target=back, args=(fake,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert states(fake) == [State.RUNNING] * 2


def test_more_memory_may_take_longer(tmp_path: Path) -> None:
    pages = (40 << 30) // os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "7").mkdir()
    (tmp_path / "7/statm").write_text(f"1 {pages} 1 1 0 1 0\n")
    assert session.restore_seconds([7], str(tmp_path)) == 60.0
    assert session.restore_seconds([8], str(tmp_path)) == 20.0


def test_a_process_has_its_name_and_inner_number() -> None:
    assert session.name(os.getpid()).startswith(f"process {os.getpid()} (")
    assert session.name(1 << 29) == f"process {1 << 29}"
