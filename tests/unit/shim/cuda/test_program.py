from __future__ import annotations

from pathlib import Path

import pytest

from shim.cuda.calls import ILLEGAL_STATE, NOT_SUPPORTED, DriverError, State
from shim.cuda.helper import Helper
from shim.cuda.program import Program
from shim.errors import Unfit
from tests.unit.shim.cuda.test_helper import soon


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Answers as cuda-checkpoint does: process 5 uses CUDA, 6 does so too and refuses all."""
    path = tmp_path / "cuda-checkpoint"
    path.write_text(
        f"""#!/bin/sh
echo "$*" >> {tmp_path}/asked
case "$*" in
--help) ;;
"--get-state --pid 5") echo running ;;
"--get-state --pid 6") echo 'Could not get state: "some trouble"' >&2; exit 1 ;;
*"--pid 6"*) echo 'Could not act: "operation not supported"' >&2; exit 1 ;;
*"--pid 5"*) [ ! -e {tmp_path}/broken ] || {{ cat {tmp_path}/broken >&2; exit 1; }} ;;
*) echo 'Error getting state: "initialization error"' >&2; exit 1 ;;
esac
"""
    )
    path.chmod(0o755)
    return path


def asked(program: Path) -> list[str]:
    return (program.parent / "asked").read_text().splitlines()


def test_states(program: Path) -> None:
    driver = Program(str(program))
    driver.initialize()
    assert driver.state(5) is State.RUNNING
    assert driver.state(7) is None
    with pytest.raises(DriverError, match="some trouble"):
        driver.state(6)


def test_actions(program: Path) -> None:
    driver = Program(str(program))
    driver.lock(5, 1.5)
    driver.checkpoint(5)
    driver.restore(5, {"GPU-a": "GPU-a"})
    driver.restore(5, {"GPU-a": "GPU-b", "GPU-b": "GPU-a"})
    driver.unlock(5)
    assert asked(program) == [
        "--action lock --pid 5 --timeout 1500",
        "--action checkpoint --pid 5",
        "--action restore --pid 5",
        "--action restore --pid 5 --device-map GPU-a=GPU-b,GPU-b=GPU-a",
        "--action unlock --pid 5",
    ]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("operation not supported", NOT_SUPPORTED),
        ("the operation cannot be performed in the present state", ILLEGAL_STATE),
        ("whatever", -1),
        ("", -1),
    ],
)
def test_refusals(program: Path, words: str, code: int) -> None:
    (program.parent / "broken").write_text(words)
    with pytest.raises(DriverError) as refusal:
        Program(str(program)).checkpoint(5)
    assert refusal.value.code == code
    assert refusal.value.text == (words or "it ended with status 1")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(Unfit, match="/nowhere/cuda-checkpoint"):
        Program("/nowhere/cuda-checkpoint").initialize()


def test_the_helper_asks_it(program: Path) -> None:
    with Helper(str(program)) as helper:
        assert helper.states([5, 7], soon()) == {5: State.RUNNING}
        answers = helper.ask("checkpoint", [5, 6], soon())
    assert answers[5].code == 0
    assert "managed memory" in answers[6].why
