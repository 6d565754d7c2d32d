"""The memory of a container's processes, by the kernel's own account."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes."""

    anonymous: int
    """Its own pages: written, or never of a file. Nobody else can use them."""
    page_tables: int
    resident: int
    """With every page of files that is mapped, however many others map it."""
    proportional: int
    """With such a page divided by the number of those who map it (PSS)."""

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(
            **{
                field.name: getattr(self, field.name) + getattr(other, field.name)
                for field in fields(self)
            }
        )


NOTHING = Footprint(anonymous=0, page_tables=0, resident=0, proportional=0)


def parse(rollup: str, status: str) -> Footprint:
    """Of one process, by its ``smaps_rollup`` and ``status``."""
    values: dict[str, int] = {}
    for line in [*rollup.splitlines(), *status.splitlines()]:
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            values.setdefault(name, int(rest.split()[0]) << 10)
    return Footprint(
        anonymous=values.get("Anonymous", 0),
        page_tables=values.get("VmPTE", 0),
        resident=values.get("Rss", 0),
        proportional=values.get("Pss", 0),
    )


def in_cgroup(text: str) -> Callable[[Path], bool]:
    """Processes (folders of /proc) with this text in the path of a cgroup."""
    return lambda folder: text in (folder / "cgroup").read_text()


def named(*texts: str) -> Callable[[Path], bool]:
    """Processes (folders of /proc) with all of these texts in their command lines."""

    def wanted(folder: Path) -> bool:
        command = (folder / "cmdline").read_bytes().decode(errors="replace")
        return all(text in command for text in texts)

    return wanted


def in_network(namespace: Path) -> Callable[[Path], bool]:
    """Processes (folders of /proc) in a network namespace."""
    inode = namespace.stat().st_ino
    return lambda folder: (folder / "ns/net").stat().st_ino == inode


def of(wanted: Callable[[Path], bool]) -> Footprint:
    """Of all processes of this machine that are wanted; one that ends meanwhile does not count."""
    total = NOTHING
    for folder in PROC.iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and wanted(folder):
                rollup = (folder / "smaps_rollup").read_text()
                total += parse(rollup, (folder / "status").read_text())
    return total
