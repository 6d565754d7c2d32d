"""A behaviour: state that a program builds up, and what it sees of that state later.

Each behaviour is asked once, after the capture: in the process that was captured and ran on, and
in each process that was restored from it. The answers must be equal, so an answer holds no
time of day, no address and nothing else that differs between two right runs.

The workload runs in a bare container: the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

Answer = Mapping[str, object]

libc = ctypes.CDLL(None, use_errno=True)


class Behaviour:
    """Base of all; one process of its own for each, forked from the first process."""

    root_only: ClassVar[bool] = False
    """Needs capabilities that a container with user 1000 and none of them lacks."""

    limit: ClassVar[Literal["", "refused", "lost"]] = ""
    """CRIU cannot capture it, or does not bring it back (docs/limitations.md); run when named."""

    needs: ClassVar[str] = ""
    """An environment variable without which it has nothing to talk to."""

    writes_image: ClassVar[bool] = False
    """Writes to the container's root filesystem, which may be read-only."""

    def set_up(self) -> None:
        """Build the state up; the program is ready when this returns."""
        raise NotImplementedError

    def observe(self) -> Answer:
        """Use the state and say what became of it."""
        raise NotImplementedError


REGISTRY: dict[str, type[Behaviour]] = {}


def behaviour(cls: type[Behaviour]) -> type[Behaviour]:
    """Register a behaviour under its class's name, written with dashes."""
    name = "".join("-" + char.lower() if char.isupper() else char for char in cls.__name__)
    REGISTRY[name.lstrip("-")] = cls
    return cls


def scratch() -> str:
    """A directory that the program may write to: a volume, or the writable layer."""
    return os.environ.get("SCRATCH", "/var/tmp")


def call(name: str, *arguments: object) -> int:
    """A libc function that answers -1 and sets errno when it fails; OSError then."""
    result: int = getattr(libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait for a condition; whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def attempt(action: Callable[[], object]) -> object:
    """The action's value, or the name of the error that it met."""
    try:
        return action()
    except OSError as error:
        return f"{type(error).__name__} {error.errno}"
