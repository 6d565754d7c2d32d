from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from cri import waterfall
from cri.records import Record, Start
from cri.trace import CriuLog, Stage, Trace, stages
from shim.plan import Result
from tests.unit.cri.test_records import decision
from tests.unit.shim.criu.test_stages import LOG

BEGAN = 1000.0
DECISION = decision(
    began=BEGAN,
    seconds=0.010,
    steps={"resolve": 0.001, "ask": 0.003, "prepare": 0.006},
    namespace="shop",
)
RESULT = Result(
    outcome="restored",
    container_id="c1",
    began=BEGAN + 0.050,
    stages={
        "load": [0.0, 0.020],
        "claim": [0.020, 0.004],
        "check": [0.0245, 0.002],
        "rootfs": [0.0265, 0.001],
        "shm": [0.0275, 0.0],
        "settings": [0.0280, 0.002],
        "runc": [0.0310, 0.080],
        "criu": [0.0276, 0.085],
    },
)
RECORD = Record(
    decision=DECISION,
    container_id="c1",
    created=BEGAN + 0.030,
    start=Start(began=BEGAN + 0.045, ended=BEGAN + 0.180),
    result=RESULT,
)
CRIU_LOG = CriuLog(lines=LOG, written=BEGAN + 0.155)


def parts(found: list[Stage], index: int) -> list[Stage]:
    """The direct parts of a stage."""
    whole, below = found[index], []
    for stage in found[index + 1 :]:
        if stage.depth <= whole.depth:
            break
        if stage.depth == whole.depth + 1:
            below.append(stage)
    return below


def check_sums(found: list[Stage]) -> None:
    """Parts follow each other without a gap from the begin of their whole to its end."""
    for index, whole in enumerate(found):
        below = parts(found, index)
        at = whole.at
        for part in below:
            assert part.at == pytest.approx(at, abs=2e-6), (whole, part)
            at = part.at + part.seconds
        if below:
            assert at == pytest.approx(whole.at + whole.seconds, abs=2e-6), whole


def test_the_parts_of_a_restore_add_up() -> None:
    found = stages(RECORD, CRIU_LOG)
    check_sums(found)
    assert [one.name for one in found if one.depth == 0] == [
        "CreateContainer",
        "between the calls",
        "StartContainer",
    ]
    names = [one.name for one in found]
    assert names.count("CRIU: memory") == 1
    assert "runc begins, starts CRIU" in names
    assert "shared memory" not in names  # it took no time
    assert sum(one.seconds for one in found if one.depth == 0) == pytest.approx(0.180)


def test_criu_stays_within_runc_whatever_the_clock_of_its_file_says() -> None:
    for written in (0.0, BEGAN, BEGAN + 0.1, BEGAN + 99):
        found = stages(RECORD, replace(CRIU_LOG, written=written))
        check_sums(found)
        runc = next(one for one in found if one.name == "runc restore")
        for one in found:
            if one.name.startswith("CRIU"):
                assert runc.at <= one.at
                assert one.at + one.seconds <= runc.at + runc.seconds + 2e-6


def test_a_restore_without_criu_s_log() -> None:
    found = stages(RECORD, CriuLog())
    check_sums(found)
    assert not [one for one in found if one.name.startswith("CRIU")]


def test_a_container_that_started_cold_has_its_calls() -> None:
    cold = replace(DECISION, choice="cold", reason="no such snapshot", steps={})
    found = stages(replace(RECORD, decision=cold, result=None), CriuLog())
    check_sums(found)
    assert [one.name for one in found if one.depth == 0][-1] == "StartContainer"


def test_a_restore_that_failed_ends_with_the_ordinary_start() -> None:
    times = {**RESULT.stages, "undo": [0.113, 0.010]}
    result = Result(outcome="cold", container_id="c1", began=RESULT.began, stages=times)
    found = stages(replace(RECORD, result=result), CRIU_LOG)
    check_sums(found)
    assert [one.name for one in found][-2:] == ["undo what failed", "runc create, containerd"]


@pytest.mark.parametrize(
    "record",
    [
        Record(decision=DECISION),
        Record(decision=DECISION, container_id="c1", created=BEGAN + 0.02),
        replace(RECORD, result=None),
        replace(RECORD, result=Result(outcome="restored", container_id="c1")),
    ],
    ids=["deciding", "created", "no answer", "an answer of an older Podthaw"],
)
def test_what_is_not_known_is_left_out(record: Record) -> None:
    found = stages(record, CriuLog())
    check_sums(found)
    assert found[0].name == "CreateContainer"


def test_no_times() -> None:
    assert stages(replace(RECORD, decision=replace(DECISION, began=0.0)), CRIU_LOG) == []


def trace(**changes: object) -> Trace:
    made = Trace(record=RECORD, stages=stages(RECORD, CRIU_LOG), faults={"minor": 9, "major": 1})
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_table() -> None:
    lines = waterfall.text(trace(first_line=0.25)).splitlines()
    assert lines[0] == "shop/web-1, container web: restored from small in 180.0 ms"
    assert lines[2].split() == ["STAGE", "AT", "TOOK"]
    whole = next(line for line in lines if line.startswith("StartContainer"))
    assert whole.split()[1:5] == ["45.0", "ms", "135.0", "ms"]
    assert whole.endswith("█" * 30)
    assert "first line of its log: 250.0 ms after CreateContainer" in lines
    assert "page faults of its processes so far: 9 minor, 1 major" in lines


def test_the_picture_is_a_document_with_a_bar_for_each_stage() -> None:
    odd = replace(RECORD, decision=replace(DECISION, snapshot='<&">\x1b[1m'))
    picture = waterfall.svg(trace(record=odd))
    root = ET.fromstring(picture)  # noqa: S314 - our own
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + len(trace().stages)
    assert "\x1b" not in picture
    assert all(float(bar.attrib["width"]) > 0 for bar in bars)


@pytest.mark.parametrize("end", [0.0004, 0.013, 0.18, 2.5, 60.0])
def test_ticks_are_few_and_round(end: float) -> None:
    ticks = waterfall._ticks(end)
    assert ticks[0] == 0
    assert len(ticks) <= 11
    assert end < 0.01 or len(ticks) >= 4
