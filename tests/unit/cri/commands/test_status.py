from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri import memory, processes
from cri.records import Decision, Exit, Records
from shim import plan
from shim.container import CRI_NAMESPACE, TASKS
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
        "NAMESPACE   POD     CONTAINER   TRY   SNAPSHOT   AGE   OUTCOME    SHARED   PRIVATE   "
        "PHASES                             REASON\n"
        "shop        web-0   main        0     web        2h    restored   -        -         "
        "check=0.00 rootfs=0.10 criu=1.25   -\n"
        "shop        web-1   main        2     web        10m   cold       -        -         "
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
        "memory": None,
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


class TestMemory:
    @pytest.fixture
    def running(
        self, records: Records, tmp_path: Path, node_config: Path
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A restored container whose process writes 8 MiB, in a group that names it."""
        decide(records, ONE, "web-0")
        records.bind(ONE, "c" * 64)
        plan.write_result(ONE, Result(outcome="restored", container_id="c" * 64), records.run)
        bundle = tmp_path / "containerd" / TASKS / CRI_NAMESPACE / ("c" * 64)
        bundle.mkdir(parents=True)
        with node_config.open("r+") as file:
            text = file.read().replace(
                "version = 3", f'version = 3\nstate = "{tmp_path}/containerd"'
            )
            file.seek(0)
            file.write(text)
        script = "import sys; memory = b'x' * (8 << 20); print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            (bundle / "init.pid").write_text(str(process.pid))
            yield process
            process.communicate()

    @pytest.fixture
    def ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Processes are found by their container's group, which a test cannot make."""
        monkeypatch.setattr(
            processes,
            "of_container",
            lambda _, state: [
                int((state / TASKS / CRI_NAMESPACE / ("c" * 64) / "init.pid").read_text())
            ],
        )

    @pytest.mark.usefixtures("running", "ours")
    def test_of_a_running_container(self, podthaw: Podthaw) -> None:
        (one,) = json.loads(podthaw("status", "-o", "json")[1])
        assert one["memory"]["shared"] == 0
        assert 8 << 20 < one["memory"]["private"] < 64 << 20
        row = podthaw("status")[1].splitlines()[1].split()
        assert row[6:9] == ["restored", "0", "B"]
        assert row[10] == "MiB"

    @pytest.mark.usefixtures("ours")
    def test_of_one_that_has_ended(
        self, podthaw: Podthaw, running: subprocess.Popen[bytes], records: Records
    ) -> None:
        running.communicate()
        assert json.loads(podthaw("status", "-o", "json")[1])[0]["memory"] is None
        records.note_exit(ONE, Exit(finished=12.0, code=0))
        assert podthaw("status")[1].splitlines()[1].split()[6:9] == ["restored", "-", "-"]

    @pytest.mark.usefixtures("running", "ours")
    def test_for_somebody_who_may_not_look(
        self, podthaw: Podthaw, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(memory, "usage", refuse)
        assert json.loads(podthaw("status", "-o", "json")[1])[0]["memory"] is None
