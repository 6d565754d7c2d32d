"""Podthaw's settings: the table ``[plugins."dev.podthaw.v1"]`` of containerd's configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from cri import containerd_config
from cri.containerd_config import Containerd, dotted, refusal
from cri.prefetch import Mode
from cri.units import parse_duration, parse_size
from shim.__main__ import RUN_VARIABLE
from shim.cuda import DRIVER
from shim.errors import Refused
from shim.plan import DEFAULT_RUN

TABLE = "dev.podthaw.v1"

DEFAULT_HANDLERS: Mapping[str, str] = {"": "podthaw", "nvidia": "podthaw-nvidia"}


class _Wrong(ValueError):
    """A value is not what is wanted; the text says what is."""


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _Wrong("a text that is not empty")
    return value


def _path(value: object) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise _Wrong("an absolute path")
    return path


def _socket(value: object) -> str:
    text = _text(value)
    if not text.removeprefix("unix://").startswith("/"):
        raise _Wrong("the absolute path of a unix socket, with or without unix://")
    path = text.removeprefix("unix://")
    if len(path.encode()) > 107:
        raise _Wrong("a path of at most 107 bytes, which is what a unix socket can have")
    return path


def _program(value: object) -> str:
    text = _text(value)
    if "/" in text and not text.startswith("/"):
        raise _Wrong("a program's name or absolute path")
    return text


def _cuda(value: object) -> str:
    if value == DRIVER:
        return DRIVER
    try:
        return str(_path(value))
    except _Wrong:
        raise _Wrong(f'"{DRIVER}" or the absolute path of the program cuda-checkpoint') from None


def _one_of(*allowed: str) -> Callable[[object], Any]:
    def check(value: object) -> str:
        if value not in allowed:
            raise _Wrong("one of " + ", ".join(f'"{one}"' for one in allowed))
        return str(value)

    return check


def _duration(value: object) -> float:
    try:
        seconds = parse_duration(value) if isinstance(value, str) else 0.0
    except Refused:
        seconds = 0.0
    if seconds <= 0:
        raise _Wrong('a time above zero, such as "60s" or "1h30m"')
    return seconds


def _or_none(check: Callable[[object], Any]) -> Callable[[object], Any]:
    def optional(value: object) -> object:
        try:
            return None if value == "none" else check(value)
        except _Wrong as wrong:
            raise _Wrong(f'{wrong}, or "none"') from None

    return optional


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _Wrong("a whole number above zero")
    return value


def _size(value: object) -> int:
    try:
        size = parse_size(value) if isinstance(value, str) else 0
    except Refused:
        size = 0
    if size <= 0:
        raise _Wrong('a size above zero, such as "200GiB"')
    return size


def _handlers(value: object) -> Mapping[str, str]:
    if (
        not isinstance(value, dict)
        or not all(isinstance(one, str) and one for one in value.values())
        or set(value) & set(value.values())
    ):
        raise _Wrong(
            "a table from the runtime handler that kubelet asks for to Podthaw's, such as "
            '{"" = "podthaw"}, where no handler is on both sides'
        )
    return dict(value)


def _health(value: object) -> str:
    if value == "":
        return ""
    text = _text(value)
    if text.removeprefix("unix://").startswith("/"):
        return _socket(text)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise _Wrong('the path of a unix socket, "HOST:PORT", or "" for none')
    return text


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a node's Podthaw goes by. Times are in seconds, sizes in bytes."""

    containerd: str
    """Path of containerd's socket."""
    socket: str = "/run/podthaw/podthaw.sock"
    """Where kubelet finds the proxy; not used under systemd's socket activation."""
    run: Path = Path(DEFAULT_RUN)
    """Plans, locks, records: what is gone after a reboot. No key: the environment variable
    ``PODTHAW_RUN`` says it to ``podthaw-runc`` too, which reads no configuration."""
    state: Path = Path("/var/lib/podthaw")
    """What this node knows of snapshots; never shared."""
    store: Path = Path("/var/lib/podthaw/store")
    """Snapshots; may lie on a file system that nodes share."""
    runtime: str = "runc"
    """The OCI runtime below ``podthaw-runc``."""
    criu: str = "criu"
    """The CRIU that captures."""
    cuda: str = DRIVER
    """How GPU state is saved and restored: ``driver``, or the path of cuda-checkpoint."""
    handlers: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_HANDLERS))
    """Runtime handlers that are replaced for pods that opt in."""
    on_failure: Literal["cold", "fail"] = "cold"
    """For pods without the annotation of that name; as are the next one."""
    tcp: Literal["close", "established"] = "close"
    memory: Literal["mapped", "eager"] = "mapped"
    """How the memory of what is captured will come back: mapped from the snapshot, or copied."""
    restore_timeout: float = 60.0
    capture_timeout: float = 600.0
    stop_timeout: float = 30.0
    """How long calls in flight may go on after SIGTERM."""
    gc_max_count: int | None = None
    """Snapshots that one namespace may have names for."""
    gc_max_age: float | None = None
    """How long a snapshot may be unused."""
    gc_max_size: int | None = None
    """Bytes on disk that all snapshots together may take."""
    prefetch: Mode = "all"
    """How much of a snapshot is read ahead for a pod that will ask for it."""
    prefetch_bandwidth: int | None = None
    """Bytes a second for reading ahead."""
    prefetch_memory: int | None = None
    """Bytes of page cache for reading one snapshot ahead."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    health: str = "/run/podthaw/health.sock"
    """Where /healthz and /readyz answer over HTTP: a unix socket, ``HOST:PORT``, or nowhere."""
    runtimes: Mapping[str, containerd_config.Runtime] = field(default_factory=dict)
    """The runtimes of containerd's CRI plugin."""
    containerd_root: Path = Path("/var/lib/containerd")
    containerd_state: Path = Path("/run/containerd")
    max_message: int = containerd_config.DEFAULT_MESSAGE
    """Octets of a request that containerd takes."""
    files: tuple[Path, ...] = ()
    """The files that were read, in their order."""


KEYS: dict[str, Callable[[object], Any]] = {
    "socket": _socket,
    "containerd": _socket,
    "state": _path,
    "store": _path,
    "runtime": _program,
    "criu": _program,
    "cuda": _cuda,
    "handlers": _handlers,
    "on_failure": _one_of("cold", "fail"),
    "tcp": _one_of("close", "established"),
    "memory": _one_of("mapped", "eager"),
    "restore_timeout": _duration,
    "capture_timeout": _duration,
    "stop_timeout": _duration,
    "gc_max_count": _or_none(_count),
    "gc_max_age": _or_none(_duration),
    "gc_max_size": _or_none(_size),
    "prefetch": _one_of(*get_args(Mode)),
    "prefetch_bandwidth": _or_none(_size),
    "prefetch_memory": _or_none(_size),
    "log_level": _one_of("debug", "info", "warning", "error"),
    "log_format": _one_of("text", "json"),
    "health": _health,
}
"""Every key of the table, with what makes its value."""


def load_settings(path: Path) -> Settings:
    """The settings in containerd's configuration file ``path`` and its imports.

    Raises:
        Refused: something in it is wrong. All that is wrong is told at once, each with file, key,
            and what was wanted and found; with more than one, in ``detail``.
    """
    containerd = containerd_config.load(path)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for source in containerd.sources:
        _read(source, values, problems)
    if problems:
        raise refusal(problems)
    return _settings(containerd, values)


def _read(source: containerd_config.Source, values: dict[str, Any], problems: list[str]) -> None:
    plugins = source.table.get("plugins", {})
    table = plugins.get(TABLE, {}) if isinstance(plugins, dict) else {}
    if not isinstance(table, dict):
        where = dotted(("plugins", TABLE))
        problems.append(f"{source.path}: {where}: wanted a table, found {table!r}")
        return
    for key, value in table.items():
        where = f"{source.path}: {dotted(('plugins', TABLE, key))}"
        check = KEYS.get(key)
        if check is None:
            problems.append(f"{where}: no such key; there are {', '.join(sorted(KEYS))}")
            continue
        try:
            values[key] = check(value)
        except _Wrong as wrong:
            problems.append(f"{where}: wanted {wrong}, found {_toml(value)}")


def _settings(containerd: Containerd, values: dict[str, Any]) -> Settings:
    run = _run_folder()
    for key, name in (("socket", "podthaw.sock"), ("health", "health.sock")):
        if key not in values:
            values[key] = _inside(run, name)
    if "state" in values:
        values.setdefault("store", values["state"] / "store")
    values.setdefault("containerd", containerd.address.removeprefix("unix://"))
    settings = Settings(
        **values,
        run=run,
        runtimes=containerd.runtimes,
        containerd_root=containerd.root,
        containerd_state=containerd.state,
        max_message=containerd.max_message,
        files=tuple(source.path for source in containerd.sources),
    )
    if settings.socket == settings.containerd:
        raise Refused(
            f"{dotted(('plugins', TABLE, 'socket'))}: wanted a socket of Podthaw's own, found "
            f"containerd's, {settings.containerd}"
        )
    return settings


def _run_folder() -> Path:
    value = os.environ.get(RUN_VARIABLE) or DEFAULT_RUN
    try:
        return _path(value)
    except _Wrong as wrong:
        raise Refused(f"{RUN_VARIABLE}: wanted {wrong}, found {_toml(value)}") from None


def _inside(run: Path, name: str) -> str:
    try:
        return _socket(str(run / name))
    except _Wrong as wrong:
        raise Refused(
            f"{RUN_VARIABLE}: wanted a folder for the socket {name} with "
            f"{wrong}, found {_toml(str(run))}"
        ) from None


def effective(settings: Settings) -> dict[str, object]:
    """Every key of the table with the value that counts, in forms that JSON and YAML have."""
    shown: dict[str, object] = {}
    for one in fields(settings):
        if one.name in KEYS:
            value = getattr(settings, one.name)
            shown[one.name] = str(value) if isinstance(value, Path) else value
    return shown


def _toml(value: object) -> str:
    """A value as it stands in the file, nearly."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value)
