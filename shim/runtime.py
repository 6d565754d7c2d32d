"""The OCI runtime below: which program it is, and how to become it.

For a container without a plan it is what ``<run>/runtime`` points at (a symbolic link that the
daemon keeps), else ``runc`` on PATH; never this program itself. A plan names its own.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # type checkers take it for true; `typing` itself costs 8 ms to import
if TYPE_CHECKING:
    from typing import NoReturn

DEFAULT = "runc"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LEVEL = "PODTHAW_RUNC_LEVEL"
"""Environment: how many of these programs already stand above this one."""

_DEEPEST = 3
"""A vendor's runtime may call this program as its runtime below (two levels). More is a loop."""


class NotFoundError(Exception):
    """There is no runtime below; the text says where it was looked for."""


def find(run: str, name: str = "") -> str:
    """Absolute path of the runtime below.

    ``name`` is a path or a name on PATH; empty means the node's (``<run>/runtime``, else runc).
    Raises NotFoundError.
    """
    if not name:
        link = f"{run}/runtime"
        if _usable(link):
            return link
        name = DEFAULT
    if "/" in name:
        if _usable(name):
            return os.path.abspath(name)
        raise NotFoundError(f"the OCI runtime {name} is not a program that podthaw-runc can call")
    path = os.environ.get("PATH") or _DEFAULT_PATH
    for folder in path.split(":"):
        candidate = f"{folder or '.'}/{name}"
        if _usable(candidate):
            return os.path.abspath(candidate)
    raise NotFoundError(f"no OCI runtime {name} is on the PATH {path}")


def execute(program: str, arguments: list[str]) -> NoReturn:
    """Become the runtime below. Raises NotFoundError when that fails or would go in circles."""
    level = os.environ.get(_LEVEL, "0")
    depth = int(level) + 1 if level.isdigit() else 1
    if depth > _DEEPEST:
        raise NotFoundError(
            f"the OCI runtime {program} calls podthaw-runc again: "
            "set `runtime` to the runtime that does the work"
        )
    environment = {**os.environ, _LEVEL: str(depth)}
    try:
        os.execve(program, [program, *arguments], environment)  # noqa: S606
    except OSError as error:
        raise NotFoundError(
            f"the OCI runtime {program} cannot be started: {error.strerror}"
        ) from error


def _usable(path: str) -> bool:
    """Whether ``path`` is a program other than this one."""
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        return False
    try:
        return not os.path.samefile(path, sys.argv[0])
    except OSError:
        return True
