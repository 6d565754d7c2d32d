from __future__ import annotations

import logging

import pytest

from cri.telling import tell_decision, tell_outcome
from shim.plan import Result
from tests.unit.cri.test_records import decision


def test_a_decision_is_one_line_with_all_facts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = decision(choice="cold", kind="unfit", reason="no snapshot", warnings=["a warning"])
    tell_decision(one, "starts cold and not", extra_fact=3)
    first, second = caplog.records
    assert first.getMessage() == (
        "default/web-1 container web starts cold and not from small: no snapshot"
    )
    assert first.levelno == logging.WARNING
    fields = vars(first)["fields"]
    assert (fields["choice"], fields["kind"], fields["extra_fact"]) == ("cold", "unfit", 3)
    assert (fields["plan"], fields["sandbox"]) == (one.id, "s" * 64)
    assert second.getMessage() == "default/web-1: a warning"


def test_a_restore_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tell_outcome(decision(), Result(outcome="restored", container_id="c", phases={"criu": 0.5}))
    (line,) = caplog.records
    assert line.getMessage() == "default/web-1 container web was restored from small"
    assert line.levelno == logging.INFO
    assert vars(line)["fields"]["phases"] == {"criu": 0.5}
