from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from cri import logs


def record(message: str, *, fields: object = None, error: bool = False) -> logging.LogRecord:
    info = None
    if error:
        try:
            int("inner")
        except ValueError:
            info = sys.exc_info()
    one = logging.LogRecord("podthaw.x", logging.WARNING, "/a/b.py", 7, message, None, info)
    one.fields = fields
    return one


def test_a_text_line_is_klogs() -> None:
    line = logs.TextFormatter().format(record("it is", fields={"pod": "a b", "none": None}))
    assert re.fullmatch(r'W\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ b\.py:7\] it is pod="a b"', line), line


def test_a_message_cannot_forge_a_line() -> None:
    line = logs.TextFormatter().format(record("a\nE0101 forged", fields={"pod": "x\ny"}))
    assert "\n" not in line
    assert (
        logs.TextFormatter().format(record("a", error=True)).count("ValueError: invalid literal")
        == 1
    )


def test_a_json_line_has_the_fields_but_they_hide_nothing() -> None:
    one = record("it is", fields={"pod": "ü", "msg": "other", "path": object()}, error=True)
    line = logs.JsonFormatter().format(one)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["msg"], read["pod"], read["level"]) == ("it is", "ü", "warning")
    assert "ValueError: invalid literal" in read["error"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read["ts"])


def test_configure_chooses_level_and_form(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        logs.configure("warning", "json")
        logging.getLogger("podthaw").info("quiet")
        logging.getLogger("podthaw").warning("loud")
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["msg"] for line in lines] == ["loud"]
