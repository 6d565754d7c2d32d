from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from cri.collecting import collect, collect_once
from cri.store import Store
from tests.unit.cri.store.making import publish


def program(tmp_path: Path, script: str) -> list[str]:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "podthaw.gc")


def test_the_real_one_removes_by_the_configuration(
    tmp_path: Path, node_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "store")
    digest = publish(store)
    store.set_name("shop", "web", digest)
    with node_config.open("a") as file:
        file.write('gc_max_size = "1Ki"\n')
    asyncio.run(collect_once([sys.executable, "-m", "cri", "--config", str(node_config)]))
    assert store.snapshots() == []
    assert caplog.messages == [f"removed the snapshot {digest}"]


def test_what_failed_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = 'echo "$@"; echo "podthaw: the store is full" >&2; exit 1'
    asyncio.run(collect_once(program(tmp_path, script)))
    assert caplog.messages == [
        "removed the snapshot gc",
        "removed the snapshot --quiet",
        "garbage collection: the store is full",
    ]


def test_a_failure_without_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(collect_once(program(tmp_path, "exit 3")))
    assert caplog.messages == ["the garbage collection ended with status 3"]


def test_a_program_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(collect_once([str(tmp_path / "none")]))
    assert caplog.messages == [
        f"no garbage collection: {tmp_path}/none cannot be run: No such file or directory"
    ]


def test_one_that_hangs_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hanging = program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    asyncio.run(collect_once(hanging, limit=0.5))
    assert caplog.messages == ["the garbage collection did not end within 0.5 s"]
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_it_goes_on_until_it_is_cancelled(tmp_path: Path) -> None:
    counting = program(tmp_path, f"echo x >> {tmp_path}/count; exit 1")

    def runs() -> int:
        path = tmp_path / "count"
        return len(path.read_text().split()) if path.exists() else 0

    async def some_time() -> None:
        work = asyncio.ensure_future(collect(counting, interval=0.01))
        done, _ = await asyncio.wait([work], timeout=5)
        assert not done
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(some_time())
    assert runs() >= 2
