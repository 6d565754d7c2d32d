"""Does one kind of work on a store over and over, each time stopped at the next system call.

``python -m tests.unit.cri.store.crash_child WORK kill|fail FOLDER``; prints the number of calls
that the work makes and how many of the runs were stopped. A process of its own, as it forks and
replaces functions of the os module.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cri.store import Policy, Store
from shim.errors import PodthawError, Unfit
from tests.unit.cri.store.making import FILES, manifest, publish, write

CHANGING = (
    *("open", "write", "mkdir", "rmdir", "rename"),
    *("replace", "unlink", "fsync", "utime", "fchmod"),
)
READING = ("close", "read", "scandir", "stat", "lstat", "fstat")
CALLS = {"kill": CHANGING, "fail": (*CHANGING, *READING)}  # death between two reads shows nothing
NUMBERS = {"open": errno.EACCES, "write": errno.ENOSPC, "mkdir": errno.ENOSPC}
PLAN = "0123456789abcdef" * 2
WEEK = 7 * 86400.0


def prepare(root: Path) -> str:
    """A store with one snapshot that has a name, and one that has none; returns the former."""
    store = Store(root, node="node-1")
    digest = publish(store, "named")
    store.set_name("shop", "web", digest)
    publish(store, "orphan")
    return digest


def _publish(root: Path, _: str) -> None:
    _capture(root, "new")


def _publish_again(root: Path, _: str) -> None:
    _capture(root, "named")


def _repair(root: Path, _: str) -> None:
    _capture(root, "named")


def _capture(root: Path, seed: str) -> None:
    content = {**FILES, "images/seed.img": seed.encode()}
    store = Store(root, node="node-1")
    with store.stage() as stage:
        try:
            write(stage, content)
        except OSError as error:  # what fails while it dumps is the capture's to explain
            raise Unfit("the capture failed") from error
        store.publish(stage, manifest(content))


def _name(root: Path, digest: str) -> None:
    store = Store(root, node="node-1")
    store.set_name("shop", "new", digest)
    store.remove_name("shop", "web")


def _pin(root: Path, digest: str) -> None:
    store = Store(root, node="node-1")
    store.pin(digest, store.plan_pin(PLAN))


def _unpin(root: Path, digest: str) -> None:
    store = Store(root, node="node-1")
    store.unpin(digest, store.plan_pin(PLAN))


def _remove(root: Path, digest: str) -> None:
    Store(root, node="node-1").remove(digest, names=[("shop", "web")])


def _gc(root: Path, _: str) -> None:
    later = time.time() + WEEK
    result = Store(root, node="node-1", clock=lambda: later).gc(Policy(max_size=0), plans=[])
    if result.kept:
        raise Unfit(result.kept[0])


WORKS: dict[str, Callable[[Path, str], None]] = {
    "publish": _publish,
    "publish again": _publish_again,
    "repair": _repair,
    "name": _name,
    "pin": _pin,
    "unpin": _unpin,
    "remove": _remove,
    "gc": _gc,
}


def arm(limit: int, calls: Sequence[str], mode: str) -> Callable[[], int]:
    """Let the ``limit``-th call kill the process or fail; returns the count so far."""
    count = 0

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def counted(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == limit:
                if mode == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if name == "close":  # a failing close has closed
                    real(*args, **kwargs)
                number = NUMBERS.get(name, errno.EIO)
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        setattr(os, name, counted)

    for name in calls:
        wrap(name)
    return lambda: count


def run_once(work: str, mode: str, root: Path, digest: str, limit: int) -> tuple[bool, bool]:
    """One run in a forked process; whether the n-th call was reached, and stopped the work."""
    child = os.fork()
    if child == 0:
        calls = arm(
            limit, CHANGING if work == "gc" else CALLS[mode], mode
        )  # its reads are remove's
        status = 0
        try:
            WORKS[work](root, digest)
        except PodthawError:
            status = 2
        except BaseException as error:  # noqa: BLE001 - only a sentence may come out
            sys.stderr.write(f"{work} at call {limit}: {type(error).__name__}: {error}\n")
            os._exit(9)
        os._exit(status if calls() >= limit else 4)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True, True
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 2, 4):
        sys.exit(f"{work} at call {limit} ended with {code}")
    return code != 4, code == 2


def check(work: str, root: Path, limit: int) -> None:
    """Every snapshot is whole, every name leads to one, and a later collection clears the rest."""

    def consistent(when: str) -> None:
        store = Store(root, node="node-2")
        problems = store.problems()
        problems += [f"{one.digest}: {one.problem}" for one in store.snapshots() if one.problem]
        if work == "repair":  # it was damaged before, and may be gone before it is whole again
            problems = []
        if problems:
            sys.exit(f"{work} at call {limit}, {when}: {problems}")

    consistent("right afterwards")
    if work not in ("remove", "gc") and not Store(root).names():
        sys.exit(f"{work} at call {limit}: the name is lost")
    later = time.time() + WEEK
    result = Store(root, node="node-1", clock=lambda: later).gc(Policy(), plans=[])
    if result.kept:
        sys.exit(f"{work} at call {limit}: not cleared: {result.kept}")
    consistent("after a collection")
    left = list((root / "tmp").iterdir()) + [
        path for path in (root / "pins").rglob("*") if path.is_file()
    ]
    if left:
        sys.exit(f"{work} at call {limit}: left {left}")
    if limit % 10:
        return
    # And it still works.
    with Store(root).stage() as stage:
        write(stage, FILES)
        Store(root).publish(stage, manifest(FILES))


def main(work: str, mode: str, folder: Path) -> None:
    """Run the work until it gets through."""
    stopped = 0
    limit = 0
    template = folder / "template"
    digest = prepare(template)
    if work == "unpin":
        _pin(template, digest)
    if work == "repair":
        (template / "snapshots" / digest[7:] / "rootfs.tar").write_bytes(b"damage")
    reached = True
    while reached:
        limit += 1
        root = folder / f"{limit}"
        shutil.copytree(template, root)
        reached, was_stopped = run_once(work, mode, root, digest, limit)
        stopped += was_stopped
        check(work, root, limit)
        shutil.rmtree(root)
    print(limit - 1, stopped)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
