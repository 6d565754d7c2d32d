"""The fake driver on this machine, with programs that use it, all below a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.container import start_time
from tests import fakegpu
from tests.fakegpu import Gpu


class Fake:
    """Two GPUs and the processes that use them."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.environment = {
            "FAKEGPU_HOME": str(self.home),
            "FAKEGPU_DEVICE": str(folder / "nvidia"),
            "FAKEGPU_TMP": str(folder),
            "LD_LIBRARY_PATH": str(folder),
        }
        shutil.copy(fakegpu.driver(), folder / "libcuda.so.1")
        (self.home / "faults").mkdir(parents=True)
        self.gpus = [Gpu(number=0), Gpu(number=1)]
        for gpu in self.gpus:
            (self.home / gpu.uuid).mkdir()
            (folder / f"nvidia{gpu.number}").touch()
        self.write_gpus(*self.gpus)
        self.started: list[subprocess.Popen[bytes]] = []

    def write_gpus(self, *gpus: Gpu) -> None:
        (self.home / "gpus").write_text("".join(map(str, gpus)))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A program, once it computes."""
        number = len(self.started)
        with (self.home / f"output-{number}").open("wb") as output:
            program = subprocess.Popen(
                [fakegpu.program(), *arguments],
                stdout=output,
                env={**os.environ, **self.environment},
            )
        self.started.append(program)
        end = time.monotonic() + 10
        while not self.lines(program):
            assert time.monotonic() < end
            time.sleep(0.01)
        return program

    def lines(self, program: subprocess.Popen[bytes]) -> list[str]:
        """What it has printed; never a wrong result."""
        text = (self.home / f"output-{self.started.index(program)}").read_text()
        assert "WRONG" not in text
        return text.splitlines()

    def times(self, program: subprocess.Popen[bytes]) -> dict[int, int]:
        return {program.pid: start_time(program.pid) or 0}

    def fault(self, call: str, text: str, pid: int | str = "any") -> None:
        """``text`` as fakecuda.c has it: what, code, skip, times."""
        (self.home / f"faults/{call}-{pid}").write_text(text)

    def delays(self, text: str) -> None:
        """Milliseconds of init, lock, checkpoint, restore, unlock."""
        (self.home / "delays").write_text(text)

    def log(self) -> list[tuple[str, int, int, int, int]]:
        """(call, pid, begin, end, result) of each call, times in ns."""
        lines = (self.home / "log").read_text().split("\n")[:-1]
        words = [line.split() for line in lines]
        return [(word[0], *map(int, word[1:])) for word in words]  # type: ignore[misc]

    def goes_on(self, program: subprocess.Popen[bytes]) -> str:
        """It computes on, and rightly; its last line."""
        wanted, end = len(self.lines(program)) + 3, time.monotonic() + 10
        while len(self.lines(program)) < wanted:
            assert time.monotonic() < end, "the program has stopped"
            time.sleep(0.01)
        return self.lines(program)[-1]

    def stands(self, program: subprocess.Popen[bytes]) -> None:
        """It prints nothing new."""
        time.sleep(0.1)
        before = len(self.lines(program))
        time.sleep(0.3)
        assert len(self.lines(program)) == before

    def close(self) -> None:
        for program in self.started:
            program.kill()
            program.wait()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    made = Fake(tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()
