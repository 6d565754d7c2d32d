"""containerd's configuration: the main file and its imports, merged as containerd 2.x merges them.

Facts from containerd's own loader: imports are read after the file that names them, first in
first out; a relative path is relative to that file; a ``*`` makes it a pattern, whose matches are
taken in the order of their names; a file is read once. A later file's tables are merged into the
earlier ones key by key; its values replace the earlier ones; its top-level lists are added.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shim.errors import Refused

Table = dict[str, Any]

DEFAULT_PATH = Path("/etc/containerd/config.toml")
DEFAULT_ADDRESS = "/run/containerd/containerd.sock"
DEFAULT_MESSAGE = 16 * 1024 * 1024
"""Octets of a request that containerd takes unless told otherwise."""

# Where the CRI plugin's runtimes are: containerd 2.x (version 3 on) and 1.7 (version 2).
_CRI = ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri")

# Where the socket is in version 4 files; before, in the table [grpc].
_GRPC = "io.containerd.server.v1.grpc"


@dataclass(frozen=True)
class Source:
    """One file and what it contains."""

    path: Path
    table: Table


@dataclass(frozen=True)
class Runtime:
    """A runtime of containerd's CRI plugin."""

    type: str
    binary: str
    """``BinaryName``; empty for containerd's own choice."""
    container_annotations: tuple[str, ...]
    """Patterns of the container annotations that reach the OCI spec."""


@dataclass(frozen=True)
class Containerd:
    """What Podthaw needs of containerd's configuration."""

    sources: tuple[Source, ...] = ()
    address: str = DEFAULT_ADDRESS
    root: Path = Path("/var/lib/containerd")
    state: Path = Path("/run/containerd")
    max_message: int = DEFAULT_MESSAGE
    runtimes: dict[str, Runtime] = field(default_factory=dict)


def load(path: Path) -> Containerd:
    """Reads ``path`` and its imports.

    Like containerd, takes every default when the file at the default path does not exist.

    Raises:
        Refused: a file cannot be read, is not TOML, or has a value of a wrong type; the message
            names it, and ``detail`` has the rest when there is more than one.
    """
    if path == DEFAULT_PATH and not path.exists():
        return Containerd()
    sources = tuple(_read_all(path))
    merged: Table = {}
    for source in sources:
        try:
            merge(merged, source.table, top=True)
        except RecursionError:
            raise _too_deep(source.path) from None
    return _facts(merged, sources)


def _too_deep(path: Path) -> Refused:
    return Refused(f"{path}: is not valid TOML: nested too deeply")


def _read_all(path: Path) -> Iterator[Source]:
    pending, seen = [path], set[Path]()
    while pending:
        current = pending.pop(0)
        if current in seen:
            continue
        seen.add(current)
        table = _read(current)
        yield Source(current, table)
        imports = table.get("imports", [])
        if not isinstance(imports, list) or not all(isinstance(one, str) for one in imports):
            raise Refused(f"{current}: imports: wanted a list of paths, found {imports!r}")
        for one in imports:
            if "\0" in one:
                raise Refused(f"{current}: imports: wanted a list of paths, found {one!r}")
            pending += _matches(Path(os.path.normpath(current.parent / one)))


def _matches(path: Path) -> list[Path]:
    if "*" not in str(path):
        return [path]
    anchor = Path(path.anchor or ".")
    # Two and more stars mean one: containerd's patterns do not reach into folders.
    return sorted(anchor.glob(re.sub(r"\*+", "*", str(path.relative_to(anchor)))))


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refused(f"{path}: is not UTF-8 text, which TOML has to be") from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{path}: is not valid TOML: {error}") from None
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:  # a zero byte in the path
        raise Refused(f"{str(path)!r}: cannot be read: {error}") from None


def merge(into: Table, later: Table, *, top: bool = False) -> None:
    """Merges a later file's table into ``into``."""
    for key, value in later.items():
        present = into.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            merge(present, value)
        elif top and isinstance(present, list) and isinstance(value, list):
            into[key] = present + [one for one in value if one not in present]
        else:
            into[key] = _copy(value)


def _copy(value: Any) -> Any:  # noqa: ANN401  # whatever TOML can hold
    return {key: _copy(one) for key, one in value.items()} if isinstance(value, dict) else value


def _facts(merged: Table, sources: tuple[Source, ...]) -> Containerd:
    problems: list[str] = []

    def get(table: Any, *keys: str, kind: type, default: Any) -> Any:  # noqa: ANN401
        for number, key in enumerate(keys):
            if not isinstance(table, dict):
                break
            if key not in table:
                return default
            table = table[key]
            wanted = kind if number == len(keys) - 1 else dict
            if not isinstance(table, wanted) or (wanted is int and isinstance(table, bool)):
                break
        else:
            return table
        where = next(s.path for s in reversed(sources) if keys[0] in s.table)
        name = dotted(keys)
        problems.append(f"{where}: {name}: wanted {_KINDS[kind]}, found {table!r}")
        return default

    places = (("plugins", _GRPC), ("grpc",))
    addresses = [get(merged, *place, "address", kind=str, default="") for place in places]
    limits = [get(merged, *place, "max_recv_message_size", kind=int, default=0) for place in places]
    found = Containerd(
        sources=sources,
        address=next((one for one in addresses if one), DEFAULT_ADDRESS),
        root=Path(get(merged, "root", kind=str, default=str(Containerd.root))),
        state=Path(get(merged, "state", kind=str, default=str(Containerd.state))),
        max_message=next((one for one in limits if one > 0), DEFAULT_MESSAGE),
        runtimes=_runtimes(merged, get),
    )
    if problems:
        raise refusal(problems)
    return found


_KINDS = {str: "a text", int: "a whole number", dict: "a table", list: "a list"}


def _runtimes(merged: Table, get: Callable[..., Any]) -> dict[str, Runtime]:
    found: dict[str, Runtime] = {}
    for plugin in _CRI:
        where = ("plugins", plugin, "containerd", "runtimes")
        for name in get(merged, *where, kind=dict, default={}):
            annotations = get(merged, *where, name, "container_annotations", kind=list, default=[])
            found.setdefault(
                name,
                Runtime(
                    type=get(merged, *where, name, "runtime_type", kind=str, default=""),
                    binary=get(merged, *where, name, "options", "BinaryName", kind=str, default=""),
                    container_annotations=tuple(map(str, annotations)),
                ),
            )
    return found


def dotted(keys: tuple[str, ...]) -> str:
    """A key as TOML writes it: parts that are not plain words in quotes."""
    return ".".join(
        key if key.replace("_", "").replace("-", "").isalnum() else f'"{key}"' for key in keys
    )


def refusal(problems: list[str]) -> Refused:
    """One error for all that is wrong."""
    if len(problems) == 1:
        return Refused(problems[0])
    return Refused(
        f"{len(problems)} values of the configuration are wrong", detail="\n".join(problems)
    )
