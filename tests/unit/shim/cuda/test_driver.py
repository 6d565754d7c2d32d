from __future__ import annotations

import ctypes
import time

import pytest

from shim.cuda import calls, driver
from shim.cuda.calls import DriverError, State
from shim.cuda.driver import Driver
from shim.errors import Unfit
from tests import fakegpu
from tests.unit.shim.cuda.conftest import Fake


def load() -> Driver:
    return Driver(ctypes.CDLL(str(fakegpu.driver())))


def test_the_structures_have_the_size_of_cuda_h() -> None:
    for structure in (driver._LockArgs, driver._NoArgs, driver._RestoreArgs):
        assert ctypes.sizeof(structure) == 64
    assert driver._RestoreArgs.gpuPairsCount.offset == 8
    assert ctypes.sizeof(driver._GpuPair) == 32


def test_the_way_of_a_process(fake: Fake) -> None:
    program, library = fake.start(), load()
    library.initialize()
    assert library.version == 13000
    assert library.state(program.pid) is State.RUNNING
    library.lock(program.pid, 1.0)
    assert library.state(program.pid) is State.LOCKED
    fake.stands(program)
    library.checkpoint(program.pid)
    assert library.state(program.pid) is State.CHECKPOINTED
    library.restore(program.pid, {})
    assert library.state(program.pid) is State.LOCKED
    fake.stands(program)
    library.unlock(program.pid)
    assert library.state(program.pid) is State.RUNNING
    fake.goes_on(program)


def test_another_gpu(fake: Fake) -> None:
    program, library = fake.start(), load()
    first, second = (gpu.uuid for gpu in fake.gpus)
    library.lock(program.pid, 1.0)
    library.checkpoint(program.pid)
    with pytest.raises(DriverError) as wrong:
        library.restore(program.pid, {second: first})
    assert wrong.value.code == calls.INVALID_VALUE
    library.restore(program.pid, {first: second})
    library.unlock(program.pid)
    assert second in fake.goes_on(program)


def test_an_old_driver_takes_no_map(fake: Fake) -> None:
    (fake.home / "version").write_text("12080")
    program, library = fake.start(), load()
    first, second = (gpu.uuid for gpu in fake.gpus)
    library.lock(program.pid, 1.0)
    library.checkpoint(program.pid)
    with pytest.raises(DriverError, match="580"):
        library.restore(program.pid, {first: second})
    library.restore(program.pid, {first: first})
    library.unlock(program.pid)


def test_a_process_without_cuda_and_one_that_is_gone(fake: Fake) -> None:
    assert fake.home.exists()
    library = load()
    assert library.state(1) is None
    assert library.state(1 << 29) is None


def test_a_refusal_carries_the_drivers_words(fake: Fake) -> None:
    program, library = fake.start("--managed"), load()
    library.lock(program.pid, 1.0)
    with pytest.raises(DriverError) as refusal:
        library.checkpoint(program.pid)
    assert refusal.value.code == calls.NOT_SUPPORTED
    assert refusal.value.name == "CUDA_ERROR_NOT_SUPPORTED"
    assert refusal.value.text == "operation not supported"
    library.unlock(program.pid)
    fake.goes_on(program)


def test_the_lock_has_a_timeout(fake: Fake) -> None:
    program, library = fake.start("--step-ms", "2000"), load()
    time.sleep(0.3)  # it prints between two steps
    with pytest.raises(DriverError) as late:
        library.lock(program.pid, 0.2)
    assert late.value.code == calls.NOT_READY
    assert library.state(program.pid) is State.RUNNING


def test_a_state_of_a_driver_of_tomorrow(fake: Fake) -> None:
    class Tomorrow:
        def __getattr__(self, name: str) -> object:
            def call(*arguments: object) -> int:
                if name == "cuCheckpointProcessGetState":
                    arguments[1]._obj.value = 17  # type: ignore[attr-defined]
                return 0

            return call

    assert fake.home.exists()
    with pytest.raises(DriverError, match="17"):
        Driver(Tomorrow()).state(1)  # type: ignore[arg-type]


def test_a_driver_without_these_calls(fake: Fake) -> None:
    (fake.home / "version").write_text("12040")
    with pytest.raises(Unfit, match=r"570 or newer.*CUDA 12\.4"):
        Driver(ctypes.CDLL(str(fakegpu.driver(old=True))))


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    assert not driver.present()
    with pytest.raises(Unfit, match="no NVIDIA driver"):
        Driver.load()
