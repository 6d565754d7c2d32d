"""Where the time of one start went: stages, parts of stages, and nothing left out.

The clocks are those of three writers: the daemon and ``podthaw-runc`` note CLOCK_MONOTONIC, and
CRIU's log counts from CRIU's own start; its last line is set to where the file was last written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cri.records import Record
from shim.criu import stages as criu_stages

_LEAST = 0.00005
"""Seconds below which time between two parts is none to be told of."""

_NAMES = {
    "load": "interpreter and imports",
    "claim": "take the plan",
    "check": "compare with the request",
    "rootfs": "changed files",
    "shm": "shared memory",
    "criu": "processes",
    "settings": "settings of the pod's namespaces",
    "runc": "runc restore",
    "guard": "guard of mapped memory",
    "cuda": "GPU",
    "hook": "hook of the workload",
    "undo": "undo what failed",
    "images": "CRIU: images, cgroups",
    "processes": "CRIU: processes, namespaces",
    "mounts": "CRIU: mounts",
    "files": "CRIU: files, mappings",
    "memory": "CRIU: memory",
    "resume": "CRIU: resume",
    "resolve": "find the snapshot",
    "ask": "ask containerd",
    "prepare": "verify, prepare the plan",
}

_OF_PROCESSES = ("settings", "runc", "guard")
"""Parts of the phase ``criu``, in their order."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A row of the picture. Times are seconds; those of the parts add up to those of the whole."""

    name: str
    at: float
    """After CreateContainer came."""
    seconds: float
    depth: int
    """0 for the calls; parts follow their whole and are one deeper."""


@dataclass(frozen=True, kw_only=True)
class CriuLog:
    """What CRIU wrote of a restore."""

    lines: Sequence[str] = ()
    written: float = 0.0
    """When its last line was, on CLOCK_MONOTONIC."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One start."""

    record: Record
    stages: list[Stage]
    faults: Mapping[str, int] = field(default_factory=dict)
    """``minor`` and ``major`` page faults of the processes that run, so far."""
    first_line: float | None = None
    """Seconds after CreateContainer came at which the container logged its first line."""

    @property
    def end(self) -> float:
        """Seconds from CreateContainer to the end of the last stage."""
        return max((one.at + one.seconds for one in self.stages), default=0.0)


@dataclass
class _Part:
    """A span of CLOCK_MONOTONIC with parts of its own."""

    name: str
    begin: float
    end: float
    parts: list[_Part] = field(default_factory=list)


def stages(record: Record, log: CriuLog) -> list[Stage]:
    """The stages of a start, as far as it has got; none when nobody noted its times."""
    origin = record.decision.began
    if not origin:
        return []
    whole = [_creation(record)]
    if record.start is not None:
        if record.created:
            whole.append(_Part("between the calls", record.created, record.start.began))
        whole.append(_start(record, log))
    return [stage for part in whole for stage in _rows(part, origin, 0)]


def _creation(record: Record) -> _Part:
    decision = record.decision
    decided = decision.began + decision.seconds
    done = record.created or decided
    deciding = _Part("Podthaw decides", decision.began, decided)
    at = decision.began
    for name, seconds in decision.steps.items():
        deciding.parts.append(_Part(_NAMES.get(name, name), at, at + seconds))
        at += seconds
    whole = _Part("CreateContainer", decision.began, done, [deciding])
    return _filled(whole, after="containerd creates")


def _start(record: Record, log: CriuLog) -> _Part:
    """StartContainer; a container without a plan has no parts that anybody noted."""
    assert record.start is not None  # noqa: S101 - the caller looked
    whole = _Part("StartContainer", record.start.began, record.start.ended)
    result = record.result
    if result is None or not result.began or not result.stages:
        return whole
    spans = {
        name: (result.began + at, result.began + at + seconds)
        for name, (at, seconds) in result.stages.items()
    }
    create = _Part("podthaw-runc create", result.began, max(end for _, end in spans.values()))
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1][0]):
        if name not in _OF_PROCESSES and end - begin >= _LEAST:
            create.parts.append(_Part(_NAMES.get(name, name), begin, end))
        if name == "criu":
            create.parts[-1].parts = _processes(spans, log)
    for part in create.parts:
        _filled(part, other="the rest")
    whole.parts.append(_filled(create, other="notes, forks"))
    after = "runc create, containerd" if result.outcome == "cold" else "start, containerd"
    return _filled(whole, before="containerd, shim", after=after)


def _processes(spans: Mapping[str, tuple[float, float]], log: CriuLog) -> list[_Part]:
    """The parts of the phase ``criu``."""
    parts = {name: _Part(_NAMES[name], *spans[name]) for name in _OF_PROCESSES if name in spans}
    found, took = criu_stages.read(log.lines)
    if not found or "runc" not in parts:
        return list(parts.values())
    runc = parts["runc"]
    # The file's time is that of a tick of the kernel, so it may lie some milliseconds off.
    end = min(max(log.written, runc.begin + took), runc.end)
    begin = max(runc.begin, end - took)
    for name, (at, seconds) in found.items():
        stop = min(begin + at + seconds, runc.end)
        runc.parts.append(_Part(_NAMES[name], min(begin + at, stop), stop))
    _filled(runc, before="runc begins, starts CRIU", after="runc ends")
    return list(parts.values())


def _filled(whole: _Part, *, before: str = "", after: str = "", other: str = "") -> _Part:
    """Give the time that no part accounts for a part of its own."""
    if not whole.parts:
        return whole
    parts: list[_Part] = []
    at = whole.begin
    for part in whole.parts:
        if part.begin - at >= _LEAST:
            parts.append(_Part((before if not parts else "") or other or "other", at, part.begin))
        else:
            part.begin = at
        part.end = min(max(part.end, part.begin), whole.end)
        parts.append(part)
        at = part.end
    if whole.end - at >= _LEAST:
        parts.append(_Part(after or other or "other", at, whole.end))
    else:
        parts[-1].end = whole.end
    whole.parts = parts
    return whole


def _rows(part: _Part, origin: float, depth: int) -> Iterable[Stage]:
    yield Stage(
        name=part.name,
        at=round(part.begin - origin, 6),
        seconds=round(max(0.0, part.end - part.begin), 6),
        depth=depth,
    )
    for one in part.parts:
        yield from _rows(one, origin, depth + 1)
