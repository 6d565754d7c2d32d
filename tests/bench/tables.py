"""The tables of docs/benchmarks.md, made from build/bench.json. Pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.bench.goals import OURS, Goal, MissingError, Results, judge, middle

TITLES = {
    "runc": "runc restore",
    "crun": "crun restore",
    "eager": "Podthaw, eager",
    "mapped": "Podthaw, mapped",
    "cold": "ordinary start",
}
NONE = "-"
TOUCHES = {
    ("/touch/0.05/64/read", False): "nothing known of it",
    ("/touch/0.05/64/read", True): "known from an earlier replica",
    ("/touch/0.05/1/read", True): "known, single pages",
}
"""First request and whether the node knows which pages it touches."""


def rewrite(text: str, sections: Mapping[str, str]) -> str:
    """The page with new text between ``<!-- bench: NAME -->`` and ``<!-- /bench -->``.

    LookupError when the page has a section that is not among them, or lacks one of them.
    """
    left = dict(sections)

    def replaced(found: re.Match[str]) -> str:
        name = found[2]
        if name not in left:
            raise LookupError(f"the page has a section {name!r} that nothing fills")
        return f"{found[1]}\n{left.pop(name).strip()}\n{found[3]}"

    pattern = r"(<!-- bench: (\S+) -->)\n.*?(<!-- /bench -->)"
    result = re.sub(pattern, replaced, text, flags=re.DOTALL)
    if left:
        raise LookupError(f"the page has no section {', '.join(left)}")
    return result


def sections(report: Mapping[str, Any]) -> dict[str, str]:
    """The page's sections by name."""
    found = Results(report)
    return {
        "machine": machine(report),
        "goals": goals(judge(report)),
        "running": by_size(found, "running"),
        "answer": by_size(found, "first_answer"),
        "read": by_size(found, "touched", last_touch="read"),
        "written": by_size(found, "touched", last_touch="write"),
        "phases": phases(found),
        "cold": cold(found),
        "replicas": replicas(found),
        "captures": captures(found),
        "starts": starts(found),
        "embeddings": embeddings(report.get("embeddings") or {}),
        "proxy": proxy(report.get("proxy") or {}),
        "shim": shim(report.get("shim") or {}),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(report: Mapping[str, Any]) -> str:
    """One sentence."""
    versions = (report.get("restores") or {}).get("versions") or {}
    # What a distribution adds to a version tells a reader nothing.
    plain = {name: version.partition("+")[0] for name, version in versions.items()}
    programs = ", ".join(f"{name} {version}" for name, version in plain.items() if version)
    kernel = ".".join(str(report.get("kernel")).split(".")[:2])
    return (
        f"Measured on {str(report.get('time', ''))[:10]} on a virtual machine with "
        f"{report.get('cpus')} processors and {report.get('memory_gib', 0):.0f} GiB of memory, "
        f"kernel {kernel}, {programs or 'without the restores'}; load average before "
        f"the start {report.get('load_before', 0):.1f}."
    )


def goals(listed: Sequence[Goal]) -> str:
    """Each goal with what was measured."""
    words = {True: "**met**", False: "**not met**", None: "not measured"}
    rows = [
        [
            one.figure,
            one.goal or NONE,
            one.measured,
            NONE if not one.goal else words[one.met],
        ]
        for one in listed
    ]
    return table(["figure", "goal", "measured", ""], rows)


def by_size(found: Results, key: str, **wanted: str | bool) -> str:
    """One figure, warm: a line a contender, a column a size."""
    sizes = found.sizes()
    rows = [
        [title, *(_seconds(found, size, "warm", name, key, **wanted) for size in sizes)]
        for name, title in TITLES.items()
    ]
    return table(["", *(f"{size / 1024:g} GiB" for size in sizes)], rows)


def phases(found: Results) -> str:
    """Where StartContainer's time goes, of a mapped restore: medians in milliseconds."""
    sizes = found.sizes()
    names: dict[str, None] = {}
    for size in sizes:
        for run in found.runs(size, "warm", OURS):
            names.update(dict.fromkeys(run["phases"]))
    rows = []
    for name in names:
        cells = []
        for size in sizes:
            values = [run["phases"].get(name, 0.0) for run in found.runs(size, "warm", OURS)]
            cells.append(f"{statistics.median(values) * 1000:.1f} ms" if values else NONE)
        rows.append([f"`{name}`", *cells])
    for key, title in (("created", "CreateContainer"), ("running", "StartContainer")):
        rows.append([title, *(_milliseconds(found, size, key) for size in sizes)])
    return table(["", *(f"{size / 1024:g} GiB" for size in sizes)], rows)


def cold(found: Results) -> str:
    """With nothing of the snapshot in the page cache."""
    rows = []
    for size in found.sizes():
        for name, title in TITLES.items():
            for (path, known), what in TOUCHES.items():
                runs = found.runs(size, "cold", name, first_touch=path, known=known)
                if not runs:
                    continue
                figures = {
                    key: middle([run[key] for run in runs])
                    for key in ("read_file", "before", "running", "first_answer", "touched")
                }
                share = figures["first_answer"] / figures["read_file"]
                cells = [f"{value:.2f} s" for value in figures.values()]
                cells.insert(4, f"{share:.0%}")
                rows.append([f"{size / 1024:g} GiB", title, what if name == OURS else NONE, *cells])
    head = ["memory", "", "what it touches", "reading the file", "before the start", "running"]
    return table([*head, "first answer", "of the file", "all read"], rows)


def replicas(found: Results) -> str:
    """Several at once."""
    rows = []
    for name, title in TITLES.items():
        for count in sorted({one["count"] for one in found.replicas()}):
            runs = found.together(name, count)
            if not runs:
                continue
            rows.append(
                [
                    title,
                    str(count),
                    f"{middle([statistics.median(one['running']) for one in runs]):.3f} s",
                    f"{found.slowest(name, count):.3f} s",
                    f"{middle([max(one['first_answer']) for one in runs]):.3f} s",
                    f"{found.own_memory(name, count) / 2**20:.1f} MiB",
                    f"{middle([_most(one, 'proportional') for one in runs]) / 2**20:.1f} MiB",
                ]
            )
    head = ["", "at once", "running (median)", "running (slowest)", "answer (slowest)"]
    return table([*head, "own memory", "PSS"], rows)


def captures(found: Results) -> str:
    """How long the container stood still."""
    rows = []
    for size in found.sizes():
        for name, title in TITLES.items():
            one = found.size(size)["captures"].get(name)
            if one is None:
                continue
            wanted = (size << 20) / one["disk_write"]
            rows.append(
                [
                    f"{size / 1024:g} GiB",
                    title.replace("restore", "checkpoint"),
                    f"{one['frozen']:.2f} s",
                    f"{one['seconds']:.2f} s",
                    f"{one['disk_write'] / 1e6:.0f} MB/s",
                    f"{one['frozen'] / wanted:.2f} times",
                    f"{one['bytes'] / 2**20:.0f} MiB",
                ]
            )
    head = ["memory", "", "frozen", "all of it", "disk writes", "frozen / (memory / disk)", "size"]
    return table(head, rows)


def starts(found: Results) -> str:
    """StartContainer beside an empty container's."""
    rows = []
    for name, pairs in (found.restores.get("starts") or {}).items():
        empty, restored = statistics.median(pairs["empty"]), statistics.median(pairs["restored"])
        rows.append(
            [
                TITLES[name],
                str(len(pairs["empty"])),
                f"{empty * 1000:.1f} ms",
                f"{restored * 1000:.1f} ms",
                f"{restored / empty:.2f} times",
            ]
        )
    return table(["0.25 GiB", "pairs", "empty container", "restored", "ratio"], rows)


def embeddings(demo: Mapping[str, Any]) -> str:
    """The demo's table."""
    if not demo:
        return "Not measured."
    together = demo["restores_together"]
    rows = [
        ["ordinary start", f"{demo['cold_start_s']:.2f} s", f"{demo['cold_first_answer_s']:.2f} s"],
        *(_restored(one, "") for one in demo["restores"]),
        *(_restored(one, f", {len(together)} at once") for one in together),
    ]
    return table(["", "running", "first right answer"], rows)


def _restored(one: Mapping[str, Any], how: str) -> list[str]:
    return [f"{one['outcome']}{how}", f"{one['start_s']:.2f} s", f"{one['first_answer_s']:.2f} s"]


def proxy(part: Mapping[str, Any]) -> str:
    """What the proxy adds."""
    rows = [
        [
            one["name"],
            *(
                f"{one[f'{way}_{at}_ms']:.2f} ms"
                for at in ("p50", "p99")
                for way in ("direct", "proxy")
            ),
        ]
        for one in part.get("series", [])
    ]
    resident = f"\n\nResident afterwards: {part['resident_mb']} MB." if part else ""
    head = ["the proxy, per call", "p50 direct", "p50 through", "p99 direct", "p99 through"]
    return table(head, rows) + resident


def shim(part: Mapping[str, Any]) -> str:
    """What the runtime wrapper adds."""
    rows = [
        [
            one["name"],
            *(f"{one[key]:.1f} ms" for key in ("direct_ms", "shim_ms", "added_ms")),
        ]
        for one in part.get("series", [])
    ]
    return table(["`podthaw-runc`, per ordinary start", "direct", "through", "added"], rows)


def _most(run: Mapping[str, Any], key: str) -> float:
    return float(max(memory[key] for memory in run["memory"]))


def _seconds(
    found: Results, size: int, cache: str, name: str, key: str, **wanted: str | bool
) -> str:
    try:
        return f"{found.median(size, cache, name, key, **wanted):.3f} s"
    except MissingError:
        return NONE


def _milliseconds(found: Results, size: int, key: str) -> str:
    try:
        return f"{found.median(size, 'warm', OURS, key) * 1000:.1f} ms"
    except MissingError:
        return NONE
