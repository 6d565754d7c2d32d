from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim.cuda.calls import NOT_SUPPORTED, State
from shim.cuda.helper import Helper, StuckError
from shim.errors import Unfit
from tests import fakegpu
from tests.unit.shim.cuda.conftest import Fake


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def test_only_processes_that_use_cuda_have_a_state(fake: Fake) -> None:
    program = fake.start()
    with Helper() as helper:
        states = helper.states([program.pid, 1, os.getpid(), 1 << 29], soon())
    assert states == {program.pid: State.RUNNING}


def test_several_at_once(fake: Fake) -> None:
    fake.delays("0 0 300 0 0")
    programs = [fake.start() for _ in range(3)]
    pids = [program.pid for program in programs]
    with Helper() as helper:
        helper.ask("lock", pids, soon(), seconds=1.0)
        begun = time.monotonic()
        answers = helper.ask("checkpoint", pids, soon())
        took = time.monotonic() - begun
    assert {answer.code for answer in answers.values()} == {0}
    assert took < 0.8  # one after another: 0.9
    spans = [line[2:4] for line in fake.log() if line[0] == "checkpoint"]
    assert max(begin for begin, _ in spans) < min(end for _, end in spans)


def test_a_refusal_is_an_answer(fake: Fake) -> None:
    good, bad = fake.start(), fake.start("--managed")
    with Helper() as helper:
        helper.ask("lock", [good.pid, bad.pid], soon(), seconds=1.0)
        answers = helper.ask("checkpoint", [good.pid, bad.pid], soon())
    assert answers[good.pid].code == 0
    assert answers[bad.pid].code == NOT_SUPPORTED
    assert "managed memory" in answers[bad.pid].why
    assert "CUDA_ERROR_NOT_SUPPORTED" in answers[bad.pid].why


def test_a_stuck_call_ends_at_the_deadline_and_the_helper_with_it(fake: Fake) -> None:
    program = fake.start()
    fake.fault("lock", "hang 0 0 -1")
    with Helper() as helper:
        helper.wait_ready(soon())
        begun = time.monotonic()
        with pytest.raises(StuckError, match=f"lock of process {program.pid}"):
            helper.ask("lock", [program.pid], soon(0.5), seconds=0.1)
        assert time.monotonic() - begun < 2.0
        with pytest.raises(ProcessLookupError):
            os.kill(helper.pid, 0)
    fake.goes_on(program)


def test_a_stopped_process_does_not_answer(fake: Fake) -> None:
    program = fake.start()
    program.send_signal(signal.SIGSTOP)
    with Helper() as helper, pytest.raises(StuckError):
        helper.states([program.pid], soon(0.5))
    program.send_signal(signal.SIGCONT)


def test_it_initializes_beside_other_calls_and_before_a_restore(fake: Fake) -> None:
    fake.delays("2000 0 0 0 0")
    program = fake.start()
    begun = time.monotonic()
    with Helper() as helper:
        helper.ask("lock", [program.pid], soon(), seconds=1.0)
        helper.ask("checkpoint", [program.pid], soon())
        assert time.monotonic() - begun < 2.0
        helper.ask("restore", [program.pid], soon())
        assert time.monotonic() - begun >= 2.0
        helper.ask("unlock", [program.pid], soon())
    fake.goes_on(program)


def test_an_initialization_that_fails_fails_the_restore(fake: Fake) -> None:
    fake.fault("init", "error 100 0 -1")
    program = fake.start()
    with Helper() as helper:
        helper.ask("lock", [program.pid], soon(), seconds=1.0)
        helper.ask("checkpoint", [program.pid], soon())
        answer = helper.ask("restore", [program.pid], soon())[program.pid]
    assert "finds no GPU" in answer.why


def test_no_driver(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").unlink()
    assert fake.home.exists()
    with Helper() as helper, pytest.raises(Unfit, match="no NVIDIA driver"):
        helper.wait_ready(soon())


def test_a_driver_that_is_too_old(fake: Fake, tmp_path: Path) -> None:
    (fake.home / "version").write_text("12040")
    (tmp_path / "libcuda.so.1").unlink()
    (tmp_path / "libcuda.so.1").symlink_to(fakegpu.driver(old=True))
    with Helper() as helper, pytest.raises(Unfit, match="570 or newer"):
        helper.states([1], soon())


def test_it_ends_with_its_caller(fake: Fake) -> None:
    """Also when that is killed while a call hangs."""
    program = fake.start()
    fake.fault("lock", "hang 0 0 -1")
    script = (
        "import time; from shim.cuda.helper import Helper; h = Helper();"
        "h.wait_ready(time.monotonic() + 10); print(h.pid, flush=True);"
        f"h.ask('lock', [{program.pid}], time.monotonic() + 60, seconds=50)"
    )
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    time.sleep(0.2)
    caller.kill()
    caller.communicate()
    end = soon(5)
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_that_ends_by_itself(fake: Fake) -> None:
    program = fake.start()
    with Helper() as helper:
        helper.wait_ready(soon())
        os.kill(helper.pid, signal.SIGKILL)
        with pytest.raises(Unfit, match="ended by itself"):
            helper.states([program.pid], soon())
