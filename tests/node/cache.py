"""Build a thing once, keyed by what it is made of; the second run finds it.

A name that carries its recipe's key is never out of date, so nothing here expires: to free the
disk, delete the directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """Where everything is kept: $PODTHAW_CACHE, or podthaw below the user's cache directory."""
    if explicit := os.environ.get("PODTHAW_CACHE"):
        path = Path(explicit)
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(base) / "podthaw"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(*parts: str | bytes | Path) -> str:
    """A short digest of texts and of files' contents."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        data = data.encode() if isinstance(data, str) else data
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


def once(name: str, build: Callable[[Path], None]) -> Path:
    """The cached file or directory ``name``; if absent, ``build`` makes it at the path it is given.

    Two processes that want the same thing build it once: the second waits. What an interrupted
    build left is thrown away.
    """
    final = root() / name
    if final.exists():
        return final
    with locked(name):
        if final.exists():
            return final
        partial = root() / f".partial-{name}"
        remove(partial)
        try:
            build(partial)
            partial.rename(final)
        finally:
            remove(partial)
    return final


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of this name against every other process on this machine."""
    locks = root() / ".locks"
    locks.mkdir(exist_ok=True)
    with (locks / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove(path: Path) -> None:
    """Remove a file or a tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def step(title: str, *, every: float = 30) -> Iterator[None]:
    """Say that a long step begins, that it goes on, and how long it took."""
    started = time.monotonic()
    done = threading.Event()

    def say(what: str) -> None:
        print(f"== {title}{what}", file=sys.stderr, flush=True)

    def beat() -> None:
        while not done.wait(every):
            say(f" … {time.monotonic() - started:.0f} s")

    say(" …")
    beater = threading.Thread(target=beat, daemon=True)
    beater.start()
    try:
        yield
    except BaseException:
        say(f": failed after {time.monotonic() - started:.0f} s")
        raise
    else:
        say(f": done in {time.monotonic() - started:.0f} s")
    finally:
        done.set()
        beater.join()
