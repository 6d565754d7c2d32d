"""A start as a picture: rows of stages with bars, as text for a terminal or as SVG for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from cri import output
from cri.trace import Stage, Trace

WIDTH = 40
"""Characters of the longest bar."""

_EIGHTHS = " ▏▎▍▌▋▊▉█"

_ROW, _LEFT, _BARS, _RIGHT, _TOP = 20, 270, 520, 80, 58  # pixels
_COLOURS = ("#1f4e79", "#2e86c1", "#76b5de", "#b9d9ee", "#d9e9f5")
"""By depth."""


def title(trace: Trace) -> str:
    """What the picture shows, in one sentence."""
    record, decision = trace.record, trace.record.decision
    took = f" in {_milliseconds(trace.end)}" if record.start is not None else ""
    how = {
        "restored": f"restored from {decision.snapshot}{took}",
        "cold": f"started cold{took}",
        "failed": f"not started{took}",
    }.get(record.outcome, "not started yet")
    return f"{decision.namespace}/{decision.pod}, container {decision.container}: {how}"


def remarks(trace: Trace) -> Iterator[str]:
    """What there is to tell beside the stages."""
    if trace.record.reason:
        yield f"not restored: {trace.record.reason}"
    if trace.first_line is not None:
        yield f"first line of its log: {_milliseconds(trace.first_line)} after CreateContainer"
    if trace.faults:
        faults = ", ".join(f"{count} {kind}" for kind, count in trace.faults.items())
        yield f"page faults of its processes so far: {faults}"


def text(trace: Trace) -> str:
    """A table with bars."""
    rows = [
        (
            "  " * stage.depth + stage.name,
            _milliseconds(stage.at).rjust(10),
            _milliseconds(stage.seconds).rjust(10),
            _bar(stage, trace.end),
        )
        for stage in trace.stages
    ]
    lines = [
        title(trace),
        "",
        output.table(("stage", "at".rjust(10), "took".rjust(10), ""), rows).rstrip("\n"),
    ]
    lines += ["", *remarks(trace)]
    return "\n".join(output.printable(line) if "\n" not in line else line for line in lines) + "\n"


def svg(trace: Trace) -> str:
    """A picture that needs nothing else to be shown."""
    end = max(trace.end, 0.001)
    notes = list(remarks(trace))
    height = _TOP + _ROW * (len(trace.stages) + len(notes)) + 24
    parts = [*_frame(title(trace), end, len(trace.stages), height)]
    for number, stage in enumerate(trace.stages):
        parts += _svg_row(stage, _TOP + _ROW * number, end)
    for number, line in enumerate(notes, len(trace.stages)):
        parts.append(_label(10, _TOP + _ROW * number + 22, line, "n"))
    return "\n".join([*parts, "</svg>", ""])


def _frame(heading: str, end: float, rows: int, height: int) -> Iterator[str]:
    width = _LEFT + _BARS + _RIGHT
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">'
    )
    yield f"<title>{escape(output.printable(heading))}</title>"
    yield (
        "<style>text{font:12px sans-serif;fill:#222}.h{font-size:14px;font-weight:bold}"
        ".n,.a{fill:#666}.a{text-anchor:middle;font-size:11px}</style>"
    )
    yield f'<rect width="{width}" height="{height}" fill="#fff"/>'
    yield _label(10, 24, heading, "h")
    for tick in _ticks(end):
        x = _LEFT + _BARS * tick / end
        bottom = _TOP + _ROW * rows
        yield f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>'
        yield _label(x, _TOP - 10, f"{tick * 1000:g} ms", "a")


def _svg_row(stage: Stage, top: int, end: float) -> Iterator[str]:
    x, width = _LEFT + _BARS * stage.at / end, max(1.0, _BARS * stage.seconds / end)
    colour = _COLOURS[min(stage.depth, len(_COLOURS) - 1)]
    yield _label(10 + 12 * stage.depth, top + 14, stage.name, "s")
    yield (
        f'<rect x="{x:.1f}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 6}" fill="{colour}"/>'
    )
    yield _label(x + width + 4, top + 14, _milliseconds(stage.seconds), "n")


def _label(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}">{escape(output.printable(words))}</text>'


def _ticks(end: float) -> Sequence[float]:
    """Four to ten round numbers from 0 to the end."""
    step = 0.001
    while end / step > 10:
        step *= 2.5 if f"{step:.6g}".lstrip("0.").startswith("2") else 2
    return [number * step for number in range(int(end / step) + 1)]


def _bar(stage: Stage, end: float) -> str:
    if end <= 0:
        return ""
    before = int(WIDTH * stage.at / end)
    eighths = max(1, round(8 * WIDTH * stage.seconds / end))
    return " " * before + "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
