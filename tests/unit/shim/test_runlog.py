"""Errors as runc reports them."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from shim import runlog


def test_json_for_containerd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.json"
    log.write_text('{"level":"info","msg":"before","time":"2026-01-01T00:00:00Z"}\n')
    runlog.error('no "plan"\nhere', str(log), "json")
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["level"], last["msg"]) == ("error", 'no "plan"\nhere')
    assert dt.datetime.fromisoformat(last["time"]).tzinfo is not None
    assert len(log.read_text().splitlines()) == 2
    assert capsys.readouterr().err == 'no "plan"\nhere\n'


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    runlog.error('a "b" \\', str(log), "text")
    assert log.read_text().endswith('level=error msg="a \\"b\\" \\\\"\n')
    assert capsys.readouterr().err == 'a "b" \\\n'


def test_without_a_log_the_line_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    runlog.error("why")
    assert capsys.readouterr().err.endswith('level=error msg="why"\n')


def test_a_log_that_cannot_be_written_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runlog.error("why", str(tmp_path / "absent/log"), "json")
    assert json.loads(capsys.readouterr().err)["msg"] == "why"
