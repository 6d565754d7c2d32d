"""A pod's ``podthaw.dev/`` annotations, read for one of its containers.

Annotations are typed by whoever may create a pod, so nothing here is trusted: each value must
match a narrow pattern, what is shown in a message is quoted and cut, and reading never fails.
Pure functions. docs/decisions/annotations.md says why each reading was chosen.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from cri.store.refs import Reference, shown
from shim import hooks
from shim.errors import PodthawError, Refused, Unfit
from shim.hooks import Hook
from shim.plan import PLAN_ANNOTATION, OnFailure

PREFIX = "podthaw.dev/"
SNAPSHOT = PREFIX + "snapshot"
ON_FAILURE = PREFIX + "on-failure"
CAPTURE_WHEN = PREFIX + "capture-when"
TCP = PREFIX + "tcp"
BEFORE_CAPTURE = PREFIX + "before-capture"
AFTER_RESTORE = PREFIX + "after-restore"

_KEYS = (SNAPSHOT, ON_FAILURE, CAPTURE_WHEN, TCP, BEFORE_CAPTURE, AFTER_RESTORE)
_OF_ONE = (SNAPSHOT, BEFORE_CAPTURE, AFTER_RESTORE)
"""Keys that may end in ``.<c>``, and then mean that container."""

_CONTAINER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_FILE = re.compile(r"/[^\x00-\x1f\x7f]{1,4095}")
_DURATION = re.compile(r"(\d{1,6})(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_AFTER = 24 * 3600.0  # seconds
_MAX_WARNINGS = 10
_SHOWN = 200  # characters; a name with its digest fits


@dataclass(frozen=True)
class Action:
    """One way to ask whether a workload is ready."""

    kind: Literal["ready", "http", "exec", "file", "after"]
    argument: str = ""
    """``PORT/PATH``, the command, the path or the seconds."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What the node's configuration says where a pod says nothing."""

    on_failure: OnFailure = "cold"
    tcp: Literal["close", "established"] = "close"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the annotations ask for one container."""

    reference: Reference
    """The snapshot to start from, in the pod's namespace."""
    named: bool
    """Whether the annotation names this container (``podthaw.dev/snapshot.<c>``)."""
    tcp: Literal["close", "established"] = "close"
    capture_when: Action = Action("ready")
    before_capture: Hook | None = None
    after_restore: Hook | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The outcome of reading: at most one of ``wish`` and ``problem`` is there."""

    wish: Wish | None = None
    """None when the container is not meant, or when there is a problem."""
    problem: PodthawError | None = None
    """Why the wish cannot be read or served; what happens then, ``on_failure`` says."""
    on_failure: OnFailure = "cold"
    meant: bool = False
    """Whether an annotation asks for a snapshot for this container, rightly or not."""
    text: str = ""
    """The snapshot as the user wrote it; quoted and cut when it is not a plain short word."""
    warnings: tuple[str, ...] = ()
    """Sentences on what was ignored."""


_NO_DEFAULTS = Defaults()


def opted_in(annotations: Mapping[str, str]) -> bool:
    """Whether the pod asks for Podthaw for any of its containers."""
    return any(key == SNAPSHOT or key.startswith(SNAPSHOT + ".") for key in annotations)


def snapshots(annotations: Mapping[str, str]) -> list[Reference]:
    """Every snapshot that the pod's annotations name, as far as they can be read."""
    found: dict[Reference, None] = {}
    for key, value in annotations.items():
        if key == SNAPSHOT or key.startswith(SNAPSHOT + "."):
            try:
                found[_reference(value)] = None
            except PodthawError:
                continue
    return list(found)


def read(
    annotations: Mapping[str, str], container: str, defaults: Defaults = _NO_DEFAULTS
) -> Reading:
    """What the annotations ask for the container of this name. Never raises."""
    on_failure, warnings = _on_failure(annotations, defaults)
    warnings += _unknown(annotations)
    key = f"{SNAPSHOT}.{container}"
    named = key in annotations
    if not named:
        key = SNAPSHOT
    if key not in annotations:
        return Reading(on_failure=on_failure, warnings=tuple(warnings[:_MAX_WARNINGS]))
    reading = Reading(on_failure=on_failure, meant=True, text=_plain(annotations[key]))
    try:
        wish = _wish(annotations, key, container, defaults, named=named)
    except PodthawError as error:
        reading = replace(reading, problem=error)
    else:
        reading = replace(reading, wish=wish)
        warnings += _not_carried_out(wish)
    return replace(reading, warnings=tuple(warnings[:_MAX_WARNINGS]))


def _plain(value: str) -> str:
    """A value for messages and tables: as it is when that is harmless."""
    return (
        value
        if value.isascii() and value.isprintable() and 0 < len(value) <= _SHOWN
        else shown(value)
    )


def hook_of(annotations: Mapping[str, str], key: str, container: str) -> Hook | None:
    """The hook of a container, :data:`BEFORE_CAPTURE` or :data:`AFTER_RESTORE`, if it has one.

    One that names the container comes before one for all. Raises Refused when it is malformed.
    """
    of_one = f"{key}.{container}"
    key = of_one if of_one in annotations else key
    if key not in annotations:
        return None
    hook = hooks.parse(annotations[key])
    if hook is None:
        raise Refused(f"{key} is {shown(annotations[key])}, wanted {hooks.WANTED}")
    return hook


def _wish(
    annotations: Mapping[str, str], key: str, container: str, defaults: Defaults, *, named: bool
) -> Wish:
    return Wish(
        reference=_reference(annotations[key]),
        named=named,
        tcp=_tcp(annotations.get(TCP, defaults.tcp)),
        capture_when=_capture_when(annotations.get(CAPTURE_WHEN, "ready")),
        before_capture=hook_of(annotations, BEFORE_CAPTURE, container),
        after_restore=hook_of(annotations, AFTER_RESTORE, container),
    )


def _reference(value: str) -> Reference:
    for prefix in ("oci://", "s3://"):
        if value.startswith(prefix):
            raise Unfit(
                f"{SNAPSHOT}: {shown(value)} is not yet supported by this version of Podthaw; "
                "pull it into the node's store and give its NAME"
            )
    if value == "auto":
        raise Unfit(
            f"{SNAPSHOT}: auto is not yet supported by this version of Podthaw; "
            "capture one with `podthaw capture` and give its NAME"
        )
    try:
        return Reference.parse(value)
    except Refused as error:
        raise Refused(f"{SNAPSHOT}: {error}") from None


def _on_failure(annotations: Mapping[str, str], defaults: Defaults) -> tuple[OnFailure, list[str]]:
    value = annotations.get(ON_FAILURE, defaults.on_failure)
    if value == "cold":
        return "cold", []
    if value == "fail":
        return "fail", []
    # The ordinary start is what the pod would get without Podthaw, so a slip of the pen must
    # not be what keeps it from running.
    return "cold", [f"{ON_FAILURE} is {shown(value)}, wanted cold or fail: taken as cold"]


def _tcp(value: str) -> Literal["close", "established"]:
    if value == "close":
        return "close"
    if value == "established":
        return "established"
    raise Refused(f"{TCP} is {shown(value)}, wanted close or established")


def _capture_when(value: str) -> Action:
    if value == "ready":
        return Action("ready")
    action = _action(value)
    if action is None:
        raise Refused(
            f"{CAPTURE_WHEN} is {shown(value)}, "
            "wanted ready, http:PORT/PATH, exec:COMMAND, file:/PATH or after:30s"
        )
    return action


def _action(value: str) -> Action | None:
    """``kind:argument``; None when it is none."""
    kind, colon, argument = value.partition(":")
    if colon and kind == "file":
        inside = _FILE.fullmatch(argument) and ".." not in argument.split("/")
        return Action("file", argument) if inside else None
    if colon and kind == "after":
        match = _DURATION.fullmatch(argument)
        seconds = int(match[1]) * _UNITS[match[2]] if match else -1.0
        return Action("after", f"{seconds:g}") if 0 <= seconds <= _MAX_AFTER else None
    same = hooks.parse(value)
    return Action(same.kind, same.argument) if same and same.kind != "signal" else None


def _not_carried_out(wish: Wish) -> list[str]:
    """What is understood, and left to a later version."""
    if wish.capture_when.kind == "ready":
        return []
    return [f"{CAPTURE_WHEN} is understood but not yet carried out by this version of Podthaw"]


def _unknown(annotations: Mapping[str, str]) -> list[str]:
    """A sentence for each key under ``podthaw.dev/`` that means nothing."""
    warnings = []
    for key in sorted(annotations):
        if not key.startswith(PREFIX) or key in _KEYS:
            continue
        base = next((one for one in _OF_ONE if key.startswith(one + ".")), None)
        if base is not None:
            if not _CONTAINER.fullmatch(key.removeprefix(base + ".")):
                warnings.append(f"{shown(key)} names no container and is ignored")
        elif key == PLAN_ANNOTATION:
            warnings.append(f"{key} is set by Podthaw itself and is ignored on a pod")
        else:
            near = difflib.get_close_matches(key[:80], _KEYS, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            warnings.append(f"{shown(key)} is no annotation of Podthaw and is ignored{hint}")
    return warnings
