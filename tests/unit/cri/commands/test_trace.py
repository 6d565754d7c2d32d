from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cri import processes
from cri.records import Records, Start
from shim import plan
from shim.plan import Result
from tests.unit.cri.commands.conftest import Podthaw
from tests.unit.cri.commands.test_status import ONE, TWO, decide
from tests.unit.shim.criu.test_stages import LOG


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "run")


def restored(records: Records, record_id: str, pod: str, **changes: object) -> None:
    """A container that was restored a second ago."""
    began = time.monotonic() - 1
    decide(records, record_id, pod, began=began, seconds=0.01, **changes)
    records.bind(record_id, "c" * 64, began + 0.02)
    records.note_start(record_id, Start(began=began + 0.03, ended=began + 0.2))
    times = {"load": [0.0, 0.02], "criu": [0.02, 0.1], "runc": [0.02, 0.1]}
    result = Result(
        outcome="restored", container_id="c" * 64, began=began + 0.04, stages=times, phases={}
    )
    plan.write_result(record_id, result, records.run)
    (records.folder(record_id) / "restore.log").write_text("\n".join(LOG))


def test_table(podthaw: Podthaw, records: Records) -> None:
    restored(records, ONE, "web-0")
    status, out, err = podthaw("trace", "shop/web-0")
    assert (status, err) == (0, "")
    assert out.startswith("shop/web-0, container main: restored from web in 200.0 ms\n\nSTAGE ")
    assert "CRIU: memory" in out


def test_json_of_every_container(podthaw: Podthaw, records: Records, tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    now = time.time()
    log.write_text(
        f"{datetime.fromtimestamp(now, UTC).isoformat()}Z stdout F hello\n".replace("+00:00Z", "Z")
    )
    restored(records, ONE, "web-0", time=now - 0.5, log=str(log))
    decide(records, TWO, "web-0", container="side", choice="cold", began=5.0, seconds=0.5)
    status, out, _ = podthaw("trace", "web-0", "-n", "shop", "-o", "json")
    side, main = sorted(json.loads(out), key=lambda one: one["seconds"], reverse=True)
    assert status == 0
    assert (main["container"], main["outcome"], main["seconds"]) == ("main", "restored", 0.2)
    assert main["stages"][0] == {
        "name": "CreateContainer", "at": 0.0, "seconds": 0.02, "depth": 0,
    }  # fmt: skip
    assert main["first_line"] == pytest.approx(0.5, abs=0.001)
    assert main["faults"] == {}
    assert (side["container"], side["outcome"], side["first_line"]) == ("side", "cold", None)


def test_the_latest_start_counts(podthaw: Podthaw, records: Records) -> None:
    restored(records, ONE, "web-0", time=1.0)
    restored(records, TWO, "web-0", time=2.0, attempt=1)
    _, out, _ = podthaw("trace", "shop/web-0", "-o", "json")
    assert [one["attempt"] for one in json.loads(out)] == [1]


def test_picture(podthaw: Podthaw, records: Records, tmp_path: Path) -> None:
    restored(records, ONE, "web-0")
    picture = tmp_path / "start.svg"
    assert podthaw("trace", "shop/web-0", "--svg", str(picture)) == (0, "", "")
    assert picture.read_text().startswith("<svg ")
    restored(records, TWO, "web-0", container="side")
    status, _, err = podthaw("trace", "shop/web-0", "--svg", str(picture))
    assert (status, err) == (
        1,
        "podthaw: the pod has several containers, name one with -c: main, side\n",
    )
    assert podthaw("trace", "shop/web-0", "-c", "side", "--svg", str(picture))[0] == 0


def test_nothing_to_show(podthaw: Podthaw, records: Records) -> None:
    status, _, err = podthaw("trace", "shop/web-0")
    assert (status, "nothing is known of the pod shop/web-0" in err) == (1, True)
    decide(records, ONE, "web-0")
    _, _, err = podthaw("trace", "shop/web-0")
    assert "an older Podthaw started it" in err
    _, _, err = podthaw("trace", "shop/web-0", "-c", "other")
    assert "nothing is known of the container other of the pod shop/web-0" in err


def test_faults_are_those_of_all_processes(tmp_path: Path) -> None:
    for pid, numbers in ((7, "3 0 1"), (8, "5 0 2")):
        (tmp_path / str(pid)).mkdir()
        line = f"{pid} (a (b) c) S 1 7 7 0 -1 4194560 {numbers} 0 1 2\n"
        (tmp_path / str(pid) / "stat").write_text(line)
    assert processes.faults([7, 8, 9], proc=tmp_path) == {"minor": 8, "major": 3}
    assert processes.faults([9], proc=tmp_path) == {}
