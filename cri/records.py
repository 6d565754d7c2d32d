"""What was decided for each container that opted in, and what became of it: files only.

Each decision has a directory ``<run>/plans/<id>/``, whether it was to restore or not:

    decision.json    what the daemon decided, and why (:class:`Decision`)
    container.json   the id of the container, once containerd has given it one
    concluded        made when the daemon has acted on the outcome of a restore
    start.json       when StartContainer came and was answered (:class:`Start`)
    exit.json        how the container ended, noted before it is forgotten (:class:`Exit`)
    plan.json …      the order and the answer of a restore (:mod:`shim.plan`)

So a daemon that is restarted knows all that the old one knew, and ``podthaw status`` can tell
without asking it. The directories of a pod go when its sandbox goes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from shim import plan
from shim.plan import Result

Choice = Literal["restore", "cold", "fail"]
_T = TypeVar("_T")
_ID = re.compile(r"[0-9a-f]{32}")
_SMALL = frozenset(
    {"decision.json", "container.json", "exit.json", "plan.json", "claimed", "result.json"}
    | {"concluded", "restore.log", "runc.log", "error.txt", "start.json"}
)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the daemon decided at CreateContainer."""

    id: str
    """32 hexadecimal digits; the id of the plan when there is one."""
    time: float
    """Unix time in seconds."""
    namespace: str
    pod: str
    pod_uid: str
    sandbox_id: str
    container: str
    attempt: int
    """The restart count that kubelet asked for."""
    snapshot: str
    """The snapshot as the user named it."""
    digest: str = ""
    """``sha256:<hex>``, when the name could be resolved."""
    choice: Choice
    kind: str = ""
    """``unfit``, ``broken`` or ``refused`` (:mod:`shim.errors`); empty for ``restore``."""
    reason: str = ""
    """Why not: one sentence; empty for ``restore``."""
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """How long deciding and preparing took."""
    began: float = 0.0
    """When CreateContainer came, on CLOCK_MONOTONIC; 0 where nobody noted it."""
    steps: dict[str, float] = field(default_factory=dict)
    """Part of ``seconds`` → its seconds, one after the other: resolve, ask, prepare."""
    log: str = ""
    """Path of the container's log, if kubelet wants one."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """StartContainer, on CLOCK_MONOTONIC."""

    began: float
    """When it came."""
    ended: float
    """When containerd had answered it."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a container ended, from its ContainerStatus."""

    finished: float
    """Unix time in seconds."""
    code: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that is known of one decision."""

    decision: Decision
    container_id: str = ""
    """Empty until containerd has created the container."""
    created: float = 0.0
    """When it had, on CLOCK_MONOTONIC; 0 where nobody noted it."""
    start: Start | None = None
    """None until StartContainer was answered."""
    result: Result | None = None
    """What the OCI runtime wrapper answered; None until then, and without a plan."""
    concluded: bool = False
    """Whether the daemon has acted on ``result``."""
    exit: Exit | None = None
    """None while it runs, or when nobody looked."""

    @property
    def outcome(self) -> str:
        """``restored``, ``cold``, ``failed``, or ``pending`` while a restore is under way."""
        if self.result is not None:
            return self.result.outcome
        return {"restore": "pending", "cold": "cold", "fail": "failed"}[self.decision.choice]

    @property
    def reason(self) -> str:
        """Why it was not restored; empty when it was, or is about to be."""
        return self.result.reason if self.result is not None else self.decision.reason


def new_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_hex(16)


class Records:
    """The decisions of this node. Reading never fails: what cannot be read is not there."""

    def __init__(self, run: Path = Path(plan.DEFAULT_RUN)) -> None:
        self.run = run
        self._decisions: dict[str, Decision] = {}  # read before; a decision never changes

    def folder(self, record_id: str) -> Path:
        """The directory of a decision; Refused when the id is not one of ours."""
        return Path(plan.plan_dir(record_id, self.run))

    def create(self, record_id: str) -> Path:
        """Make the directory of a decision, for root alone."""
        folder = self.folder(record_id)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        return folder

    def decide(self, decision: Decision) -> None:
        """Write a decision; its directory is made when it is not there."""
        folder = self.folder(decision.id)
        if not folder.is_dir():
            self.create(decision.id)
        _write(folder / "decision.json", asdict(decision))

    def bind(self, record_id: str, container_id: str, created: float = 0.0) -> None:
        """Note which container the decision became, and when."""
        known = {"container_id": container_id, "created": created}
        _write(self.folder(record_id) / "container.json", known)

    def note_start(self, record_id: str, start: Start) -> None:
        """Note that StartContainer was answered."""
        _write(self.folder(record_id) / "start.json", asdict(start))

    def conclude(self, record_id: str) -> None:
        """Note that the outcome of a restore has had its consequences."""
        (self.folder(record_id) / "concluded").touch(mode=0o600)

    def note_exit(self, record_id: str, ended: Exit) -> None:
        """Note how the container ended."""
        _write(self.folder(record_id) / "exit.json", asdict(ended))

    def get(self, record_id: str) -> Record | None:
        """One decision, or None when there is none that can be read."""
        folder = self.folder(record_id)
        decision = self._decision(record_id)
        if decision is None:
            return None
        container = _read(folder / "container.json", dict) or {}
        return Record(
            decision=decision,
            container_id=str(container.get("container_id", "")),
            created=float(container.get("created", 0)),
            start=_read(folder / "start.json", Start),
            result=plan.read_result(record_id, self.run),
            concluded=(folder / "concluded").exists(),
            exit=_read(folder / "exit.json", Exit),
        )

    def ids(self) -> list[str]:
        """The id of every directory there is, also of those whose decision cannot be read."""
        try:
            names = [entry.name for entry in Path(plan.plans_dir(self.run)).iterdir()]
        except OSError:
            return []
        return sorted(name for name in names if _ID.fullmatch(name))

    def all(self) -> list[Record]:
        """Every decision, oldest first."""
        return self._where(lambda _: True)

    def of_container(self, pod_uid: str, container: str) -> list[Record]:
        """The decisions for one container of a pod, oldest first: its restarts."""
        return self._where(lambda one: one.pod_uid == pod_uid and one.container == container)

    def of_sandbox(self, sandbox_id: str) -> list[Record]:
        """The decisions for the containers of one sandbox, oldest first."""
        return self._where(lambda one: one.sandbox_id == sandbox_id)

    def strays(self, before: float) -> list[str]:
        """Ids of directories that were made before that Unix time and never got a decision."""
        found = []
        for record_id in self.ids():
            with suppress(OSError):
                made = self.folder(record_id).stat().st_mtime
                if made < before and self._decision(record_id) is None:
                    found.append(record_id)
        return found

    def slim(self, record_id: str) -> None:
        """Remove what only a restore needed and keep what tells of it."""
        folder = self.folder(record_id)
        try:
            entries = list(folder.iterdir())
        except OSError:
            return
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name not in _SMALL:
                entry.unlink(missing_ok=True)

    def remove(self, record_id: str) -> None:
        """Forget a decision."""
        self._decisions.pop(record_id, None)
        shutil.rmtree(self.folder(record_id), ignore_errors=True)

    def _where(self, wanted: Callable[[Decision], bool]) -> list[Record]:
        decisions = [
            decision
            for record_id in self.ids()
            if (decision := self._decision(record_id)) is not None and wanted(decision)
        ]
        decisions.sort(key=lambda one: (one.time, one.id))
        records = (self.get(decision.id) for decision in decisions)
        return [record for record in records if record is not None]

    def _decision(self, record_id: str) -> Decision | None:
        known = self._decisions.get(record_id)
        if known is not None:
            return known
        decision = _read(self.folder(record_id) / "decision.json", Decision)
        if decision is None or decision.id != record_id:
            return None
        self._decisions[record_id] = decision
        return decision


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        raw: Any = json.loads(path.read_bytes())
        return kind(**raw)
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, value: object) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(value, file)
    aside.replace(path)
