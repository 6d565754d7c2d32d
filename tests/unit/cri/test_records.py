from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cri.records import Decision, Exit, Records, new_id
from shim import plan
from shim.errors import Refused
from shim.plan import Result


def decision(**changes: object) -> Decision:
    base = Decision(
        id=new_id(),
        time=100.0,
        namespace="default",
        pod="web-1",
        pod_uid="uid-1",
        sandbox_id="s" * 64,
        container="web",
        attempt=0,
        snapshot="small",
        choice="restore",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_a_decision_is_found_again_by_another_process(tmp_path: Path) -> None:
    asked = decision(choice="cold", kind="unfit", reason="no", warnings=["w"], digest="sha256:x")
    Records(tmp_path).decide(asked)
    record = Records(tmp_path).get(asked.id)
    assert record is not None
    assert record.decision == asked
    assert (record.outcome, record.reason) == ("cold", "no")
    assert (record.container_id, record.result, record.exit) == ("", None, None)


def test_everything_is_for_root_alone(tmp_path: Path) -> None:
    asked = decision()
    Records(tmp_path).decide(asked)
    folder = tmp_path / "plans" / asked.id
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "decision.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == ["decision.json"]


def test_the_outcome_is_the_wrappers_once_it_answered(tmp_path: Path) -> None:
    records, asked = Records(tmp_path), decision()
    records.decide(asked)
    records.bind(asked.id, "c1")
    before = records.get(asked.id)
    plan.write_result(
        asked.id, Result(outcome="cold", container_id="c1", reason="CRIU failed"), tmp_path
    )
    records.note_exit(asked.id, Exit(finished=5.0, code=1))
    after = records.get(asked.id)
    assert before is not None
    assert after is not None
    assert (before.outcome, before.container_id) == ("pending", "c1")
    assert (after.outcome, after.reason) == ("cold", "CRIU failed")
    assert after.exit == Exit(finished=5.0, code=1)


def test_restarts_of_a_container_come_in_order(tmp_path: Path) -> None:
    records = Records(tmp_path)
    late, early = decision(time=2.0, attempt=1), decision(time=1.0)
    for one in (late, early, decision(container="other"), decision(pod_uid="uid-2")):
        records.decide(one)
    found = [record.decision.id for record in records.of_container("uid-1", "web")]
    assert found == [early.id, late.id]


def test_what_cannot_be_read_is_not_there(tmp_path: Path) -> None:
    records, asked = Records(tmp_path), decision()
    records.decide(asked)
    assert Records(tmp_path / "none").all() == []
    (tmp_path / "plans" / "not-an-id").mkdir()
    broken = records.create(new_id())
    (broken / "decision.json").write_text("{")
    renamed = records.create(new_id())
    (renamed / "decision.json").write_bytes(
        (records.folder(asked.id) / "decision.json").read_bytes()
    )
    assert [record.decision.id for record in records.all()] == [asked.id]
    assert set(records.ids()) == {asked.id, broken.name, renamed.name}


def test_slimming_keeps_what_tells_of_the_restore(tmp_path: Path) -> None:
    records, asked = Records(tmp_path), decision()
    records.decide(asked)
    folder = records.folder(asked.id)
    (folder / "images").mkdir()
    (folder / "images" / "pages-1.img").symlink_to("/somewhere")
    (folder / "criu.conf").touch()
    (folder / "link").symlink_to(tmp_path)
    plan.write_result(asked.id, Result(outcome="restored", container_id="c"), tmp_path)
    records.slim(asked.id)
    assert sorted(path.name for path in folder.iterdir()) == ["decision.json", "result.json"]
    assert tmp_path.is_dir()
    records.remove(asked.id)
    assert not folder.exists()
    records.slim(asked.id)
    records.remove(asked.id)


def test_an_id_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        Records(tmp_path).remove("../../etc")
