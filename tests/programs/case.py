"""What a program's case is, and the comparison of what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.programs.image import DIRECTORY
from tests.programs.live import Live, Wrong

RUNTIME_DEFAULT = {"seccomp": {"profile_type": "RuntimeDefault"}}
EVERYWHERE = "0.0.0.0"  # noqa: S104 - a pod's address is not known before


def nothing(_live: Live) -> None:
    """A step that a case does not have."""


def answer(live: Live) -> Any:
    """What most cases ask: the JSON of the program's root page."""
    return live.json()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A program: how it is started, warmed up and asked.

    ``ask`` changes the program's state and answers with what it saw, without anything that
    depends on time or chance: what the captured original answers next, each restored copy must
    answer first.
    """

    name: str
    command: Sequence[str]
    ask: Callable[[Live], Any] = answer
    ready: Callable[[Live], object] | None = None
    """Default: it has answered ``ask``."""
    warm: Callable[[Live], object] = nothing
    env: Mapping[str, str] = field(default_factory=dict)
    busy: str = ""
    """A path that is asked for all the time during the capture; its answers change nothing."""
    end: int | None = 0
    """Exit code after SIGTERM; None: whatever the original's is."""
    after: Callable[[Live], object] = nothing
    """More that a restored copy must do, before it is stopped."""
    security: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the security context that differ from an ordinary pod's."""
    annotated: bool = True
    """Whether the original asks for the snapshot already, as a pod of a Deployment would."""
    cold: str = ""
    """Why its copies start cold, and rightly so."""
    refused: str = ""
    """The check by which preflight refuses the capture, and rightly so."""
    users: bool = False
    """Whether it has processes of other users than root."""


def file(name: str) -> str:
    """A path in the image of one of our files."""
    return f"{DIRECTORY}/{name}"


def equal(name: str, found: object, wanted: object) -> None:
    """Wrong unless both are the same."""
    if found != wanted:
        raise Wrong(f"{name} is {found!r} and should be {wanted!r}")


def shown(value: object) -> str:
    """An answer in one line."""
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split())[:160]
