"""All programs."""

from __future__ import annotations

from collections.abc import Sequence

from tests.programs import databases, servers, trees
from tests.programs.case import Case

CASES = (*servers.CASES, *databases.CASES, *trees.CASES)


def by_name(names: Sequence[str]) -> list[Case]:
    """The cases of these names; all without names. ValueError for an unknown one."""
    known = {case.name: case for case in CASES}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no program {unknown[0]!r}: there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(CASES)
