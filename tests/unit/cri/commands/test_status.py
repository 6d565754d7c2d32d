from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cri.records import Decision, Exit, Records
from shim import plan
from shim.plan import Result
from tests.unit.cri.commands.conftest import Podthaw

ONE, TWO = "1" * 32, "2" * 32
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "run")


def decide(records: Records, record_id: str, pod: str, **changes: object) -> None:
    values: dict[str, object] = {
        "id": record_id,
        "time": time.time() - 600,
        "namespace": "shop",
        "pod": pod,
        "pod_uid": "uid",
        "sandbox_id": "s" * 64,
        "container": "main",
        "attempt": 0,
        "snapshot": "web",
        "digest": DIGEST,
        "choice": "restore",
        **changes,
    }
    records.decide(Decision(**values))  # type: ignore[arg-type]


@pytest.fixture
def two(records: Records) -> Records:
    decide(records, ONE, "web-0", time=time.time() - 7300)
    records.bind(ONE, "c" * 64)
    plan.write_result(
        ONE,
        Result(
            outcome="restored",
            container_id="c" * 64,
            phases={"check": 0.004, "rootfs": 0.1, "criu": 1.25},
        ),
        records.run,
    )
    records.note_exit(ONE, Exit(finished=12.0, code=3))
    decide(
        records,
        TWO,
        "web-1",
        attempt=2,
        choice="cold",
        kind="unfit",
        reason="there is no snapshot web in the namespace shop",
        digest="",
        warnings=["unknown annotation"],
        seconds=0.5,
    )
    return records


def test_nothing(podthaw: Podthaw) -> None:
    assert podthaw("status") == (0, "", "no container opted in\n")
    assert podthaw("status", "-q") == (0, "", "no container opted in\n")
    assert podthaw("status", "-n", "shop") == (
        0,
        "",
        "no container opted in in the namespace shop\n",
    )
    assert podthaw("status", "-o", "json") == (0, "[]\n", "")


def test_a_table(podthaw: Podthaw, two: Records) -> None:
    assert len(two.all()) == 2
    table = (
        "NAMESPACE   POD     CONTAINER   TRY   SNAPSHOT   AGE   OUTCOME    "
        "PHASES                             REASON\n"
        "shop        web-0   main        0     web        2h    restored   "
        "check=0.00 rootfs=0.10 criu=1.25   -\n"
        "shop        web-1   main        2     web        10m   cold       "
        "-                                  there is no snapshot web in the namespace shop\n"
    )
    assert podthaw("status") == (0, table, "")


def test_quiet_and_one_pod(podthaw: Podthaw, two: Records) -> None:
    decide(two, "3" * 32, "web-0", namespace="bank")
    first = "shop/web-0/main restored\n"
    assert podthaw("status", "-q") == (
        0,
        first + "shop/web-1/main cold\nbank/web-0/main pending\n",
        "",
    )
    assert podthaw("status", "-q", "shop/web-0") == (0, first, "")
    assert podthaw("status", "-q", "web-0", "-n", "shop") == (0, first, "")
    assert podthaw("status", "-q", "web-0") == (0, first + "bank/web-0/main pending\n", "")
    assert podthaw("status", "-q", "-n", "bank") == (0, "bank/web-0/main pending\n", "")


def test_json(podthaw: Podthaw, two: Records) -> None:
    assert len(two.all()) == 2
    status, out, err = podthaw("status", "-o", "json")
    assert (status, err) == (0, "")
    first, second = json.loads(out)
    assert first.pop("time").endswith("Z")
    assert first == {
        "namespace": "shop",
        "pod": "web-0",
        "pod_uid": "uid",
        "container": "main",
        "container_id": "c" * 64,
        "attempt": 0,
        "snapshot": "web",
        "digest": DIGEST,
        "outcome": "restored",
        "kind": None,
        "reason": None,
        "warnings": [],
        "decided_in": 0.0,
        "phases": {"check": 0.004, "rootfs": 0.1, "criu": 1.25},
        "log_tail": [],
        "exit": {"finished": 12.0, "code": 3},
    }
    assert (second["outcome"], second["kind"]) == ("cold", "unfit")
    assert second["warnings"] == ["unknown annotation"]
    assert second["digest"] is None
    assert second["container_id"] is None
    assert second["exit"] is None


def test_a_pod_of_which_nothing_is_known(podthaw: Podthaw, two: Records) -> None:
    assert len(two.all()) == 2
    rest = "on this node: it did not opt in, its containers were not created yet, or it is gone\n"
    assert podthaw("status", "shop/web-9") == (
        1,
        "",
        f"podthaw: nothing is known of the pod shop/web-9 {rest}",
    )
    assert podthaw("status", "web-9") == (
        1,
        "",
        f"podthaw: nothing is known of the pod web-9 {rest}",
    )


def test_contradiction(podthaw: Podthaw) -> None:
    assert podthaw("status", "shop/web-0", "-n", "bank") == (
        1,
        "",
        "podthaw: 'shop/web-0' is not in the namespace bank\n",
    )


def test_a_long_reason_is_cut_unless_asked_for(podthaw: Podthaw, records: Records) -> None:
    decide(records, ONE, "web-0", choice="cold", reason="r" * 100)
    assert "   " + "r" * 59 + "…\n" in podthaw("status")[1]
    assert "   " + "r" * 100 + "\n" in podthaw("status", "--no-trunc")[1]


@pytest.mark.parametrize("command", ["status", "gc"])
def test_records_that_cannot_be_read_are_not_the_same_as_none(
    podthaw: Podthaw, records: Records, command: str
) -> None:
    """As for somebody who is not root; here a file stands where the folder belongs."""
    records.run.mkdir()
    (records.run / "plans").write_text("")
    status, out, err = podthaw(command)
    assert (status, out) == (1, "")
    assert "plans cannot be read by user" in err
    assert "Not a directory" in err
