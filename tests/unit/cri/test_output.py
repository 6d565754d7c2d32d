from __future__ import annotations

import argparse
import json
import sys

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from cri import output


def test_table() -> None:
    assert output.table(
        ("name", "size", "state"), [("a", "1.0 KiB", ""), ("longer", "5 B", "ready")]
    ) == ("NAME     SIZE      STATE\na        1.0 KiB   -\nlonger   5 B       ready\n")


def test_a_table_never_wraps() -> None:
    text = output.table(("a", "b"), [("x" * 500, "y" * 500)])
    assert text.split("\n")[1] == "x" * 500 + "   " + "y" * 500


def test_control_characters_do_not_reach_the_terminal() -> None:
    text = output.table(("a",), [("\x1b[31mred\nline\u202e",)])
    assert text == "A\n\\x1b[31mred\\nline\\u202e\n"


@given(st.text())
def test_printable_is_printable_and_keeps_what_is(text: str) -> None:
    shown = output.printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5))
def test_a_table_has_one_line_a_row(rows: list[list[str]]) -> None:
    assert output.table(("a", "b"), rows).count("\n") == len(rows) + 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
@example({"a\x85": "\u2028", "\u2029": ["ä\x85"]})
def test_documents_can_be_read_back(value: object) -> None:
    assert json.loads(output.document(value, "json")) == value
    assert yaml.safe_load(output.document(value, "yaml")) == value


def test_a_text_without_utf8_can_be_printed() -> None:
    value = {"a": "ä\ud800"}
    assert json.loads(output.document(value, "json").encode()) == value
    assert output.document(value, "yaml").encode()


def test_documents_keep_the_order() -> None:
    assert output.document({"b": 1, "a": "ä"}, "json") == '{\n  "b": 1,\n  "a": "ä"\n}\n'
    assert output.document({"b": 1, "a": "ä"}, "yaml") == "b: 1\na: ä\n"


def test_ids_and_texts_are_cut_unless_asked_for() -> None:
    digest = "sha256:" + "ab" * 32
    assert output.short_id(digest, full=False) == "sha256:abababababab"
    assert output.short_id(digest, full=True) == digest
    assert output.short_id("ab" * 32, full=False) == "ab" * 6
    assert output.short_text("x" * 60, full=False) == "x" * 60
    assert output.short_text("x" * 61, full=False) == "x" * 59 + "…"
    assert output.short_text("x" * 61, full=True) == "x" * 61


def test_rfc3339() -> None:
    assert output.rfc3339(0) == "1970-01-01T00:00:00Z"
    assert output.rfc3339(1795515712.9) == "2026-11-24T10:21:52Z"


def test_output_options() -> None:
    parser = argparse.ArgumentParser()
    output.add_output_options(parser, quiet="only names")
    args = parser.parse_args(["-o", "yaml", "-q", "--no-trunc"])
    assert (args.output, args.quiet, args.no_trunc) == ("yaml", True, True)
    args = parser.parse_args([])
    assert (args.output, args.quiet, args.no_trunc) == ("table", False, False)


def test_say_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("result\x07")
    output.note("remark\x07")
    assert capsys.readouterr() == ("result\\x07\n", "remark\\x07\n")
    assert sys.stdout.isatty() is False
