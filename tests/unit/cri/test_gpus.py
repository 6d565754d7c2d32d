from __future__ import annotations

import builtins
import ctypes
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pynvml
import pytest

from cri import gpus
from shim.errors import Broken
from tests import fakegpu
from tests.unit.cri.gpu_records import gpu


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two fake GPUs behind the real pynvml."""
    monkeypatch.setenv("FAKEGPU_HOME", str(tmp_path))
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(fakegpu.nvml())))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    write(tmp_path, 0, 3)
    return tmp_path


def write(home: Path, *numbers: int) -> None:
    made = [fakegpu.Gpu(number=number) for number in numbers]
    for one in made:
        (home / one.uuid).mkdir(exist_ok=True)
    (home / "gpus").write_text("".join(map(str, made)))


def test_what_is_read(home: Path) -> None:
    first, second = gpus.read()
    assert first == gpus.Gpu(
        uuid=fakegpu.Gpu(number=0).uuid,
        number=0,
        model="NVIDIA Fake 100",
        memory=1024 << 20,
        free=1000 << 20,
        capability="9.0",
        driver="580.159.04",
        ecc="on",
        mig="off",
    )
    assert second.number == 3
    (home / "nvml").write_text("610.1 12 1 -1 -1")
    (third, _) = gpus.read()
    assert (third.driver, third.capability, third.ecc, third.mig) == (
        "610.1",
        "12.1",
        "none",
        "none",
    )


def test_those_of_a_container_in_its_order_with_what_it_uses(home: Path) -> None:
    path = home / fakegpu.Gpu(number=3).uuid / "memory"
    path.write_bytes(bytes(1 << 20))
    import mmap

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 1 << 20):
        found = gpus.of_container([3, 0], [os.getpid(), 1])
        assert [(one.number, one.used) for one in found] == [(3, 1 << 20), (0, 0)]
        assert [one.used for one in gpus.of_container([3], [1])] == [0]
    assert [one.number for one in gpus.of_container([3, 7], [])] == [3]


def test_a_host_without_gpu_driver_or_library(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "gpus").write_text("")
    assert gpus.read() == []
    (home / "gpus").unlink()  # as NVML says it without a driver
    assert gpus.read() == []
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    assert gpus.read() == []
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "pynvml":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert gpus.read() == []


def test_what_a_manifest_records_is_read_back() -> None:
    assert gpus.recorded(asdict(gpu(used=5))) == gpu(used=5)
    assert gpus.recorded({**asdict(gpu()), "of a later version": 1}) == gpu()


@pytest.mark.parametrize(
    "change", [{"memory": "much"}, {"uuid": None}, {"number": True}, {"mig": 0}]
)
def test_a_record_that_is_none(change: dict[str, object]) -> None:
    with pytest.raises(Broken, match=next(iter(change))):
        gpus.recorded({**asdict(gpu()), **change})
    with pytest.raises(Broken):
        gpus.recorded({})
