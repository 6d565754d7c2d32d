"""Two kinds of pictures as SVG text: lines over a quantity, and horizontal bars made of parts.

Axes begin at zero, so that lengths can be compared by eye. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLOURS = ("#b03a2e", "#d68910", "#7d3c98", "#1f618d", "#7f8c8d", "#1e8449")
WIDTH = 760
FONT = 13


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: Sequence[tuple[float, float]]
    """By x."""
    colour: int = 0
    """Which of COLOURS."""


@dataclass(frozen=True)
class Bar:
    """One bar; its parts follow each other."""

    label: str
    parts: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """What is measured there, with its unit."""

    label: str
    ticks: Sequence[float] = ()
    """Where to write numbers; empty: round ones."""


def ticks(largest: float, count: int = 5) -> list[float]:
    """Round numbers from 0 on; the last one is not below ``largest``."""
    if not math.isfinite(largest) or largest <= 0:
        return [0.0, 1.0]
    rough = largest / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(largest / step * 0.999999) + 1)]


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """A chart of lines with a point at each measurement."""
    left, right, top, bottom, height = 62, 170, 44, 50, 340
    across = list(x.ticks) or ticks(max((p[0] for one in series for p in one.points), default=1))
    up = list(y.ticks) or ticks(max((p[1] for one in series for p in one.points), default=1))
    wide, high = WIDTH - left - right, height - top - bottom

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return (
            left + wide * point[0] / max(across),
            top + high - high * point[1] / max(up),
        )

    parts = [_text(left, 22, title, bold=True)]
    for value in up:
        _, level = place((0, value))
        parts += [
            _line(left, level, left + wide, level),
            _text(left - 8, level + 4, _number(value), anchor="end"),
        ]
    for value in across:
        at, _ = place((value, 0))
        parts += [
            _line(at, top + high, at, top + high + 5, colour="#444"),
            _text(at, top + high + 20, _number(value), anchor="middle"),
        ]
    parts.append(_line(left, top + high, left + wide, top + high, colour="#444"))
    parts.append(_text(left + wide / 2, height - 8, x.label, anchor="middle"))
    parts.append(_text(left, top - 6, y.label))
    for one in series:
        colour = COLOURS[one.colour % len(COLOURS)]
        places = [place(point) for point in one.points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in places]
    labels = [(place(one.points[-1])[1] + 4, one) for one in series if one.points]
    for level, one in _apart(labels):
        text = f"{one.name}"
        colour = COLOURS[one.colour % len(COLOURS)]
        parts.append(_text(left + wide + 10, level, text, colour=colour))
    return _document(height, title, parts)


def bars(
    title: str,
    axis: Axis,
    rows: Sequence[Bar],
    *,
    legend: Sequence[str] = (),
    mark: tuple[str, float] | None = None,
) -> str:
    """Horizontal bars with their total written behind; ``mark`` is a line across, with its name."""
    left, right, row = 210, 90, 28
    top = 40 + (24 if legend else 0) + (16 if mark else 0)
    largest = max([sum(one.parts) for one in rows] + [mark[1] if mark else 0.0], default=1.0)
    scale = list(axis.ticks) or ticks(largest)
    wide, high = WIDTH - left - right, row * len(rows)
    height = top + high + 50
    parts = [_text(12, 22, title, bold=True)]
    at = 12.0
    for number, name in enumerate(legend):
        parts.append(f'<rect x="{at:.0f}" y="34" width="12" height="12" fill="{_shade(number)}"/>')
        parts.append(_text(at + 17, 45, name))
        at += 40 + 7.2 * len(name)
    for value in scale:
        level = left + wide * value / max(scale)
        parts.append(_line(level, top, level, top + high))
        parts.append(_text(level, top + high + 18, _number(value), anchor="middle"))
    for number, one in enumerate(rows):
        y, x = top + number * row + 5, float(left)
        parts.append(_text(left - 8, y + 14, one.label, anchor="end"))
        for index, part in enumerate(one.parts):
            length = wide * part / max(scale)
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{row - 10}"'
                f' fill="{_shade(index)}"/>'
            )
            x += length
        parts.append(_text(x + 6, y + 14, _number(sum(one.parts))))
    if mark:
        level = left + wide * mark[1] / max(scale)
        parts.append(_line(level, top - 4, level, top + high, colour="#b03a2e", dash=True))
        parts.append(_text(level, top - 8, mark[0], anchor="middle", colour="#b03a2e"))
    parts.append(_line(left, top, left, top + high, colour="#444"))
    parts.append(_text(left + wide / 2, height - 10, axis.label, anchor="middle"))
    return _document(height, title, parts)


def _apart(labels: list[tuple[float, Series]], gap: float = 17) -> list[tuple[float, Series]]:
    """The same labels from top to bottom, moved down where they would overlap."""
    placed: list[tuple[float, Series]] = []
    for level, one in sorted(labels, key=lambda pair: pair[0]):
        lowest = placed[-1][0] + gap if placed else -math.inf
        placed.append((max(level, lowest), one))
    return placed


def _shade(number: int) -> str:
    return ("#1f618d", "#7fb3d5", "#d4e6f1")[number % 3]


def _number(value: float) -> str:
    """At most three digits that say something."""
    if value and abs(value) < 100:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{min(digits, 4)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.0f}"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    bold: bool = False,
    colour: str = "#222",
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>'
        f"{escape(text)}</text>"
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, *, colour: str = "#ddd", dash: bool = False
) -> str:
    dashes = ' stroke-dasharray="5 4"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashes}/>'
    )


def _document(height: float, title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" font-size="{FONT}" '
        f'role="img" aria-label="{escape(title)}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
