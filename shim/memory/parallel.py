"""Work done by several threads that take what comes next from one sequence."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

_MAX_THREADS = 8

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def threads() -> int:
    """How many threads serve: as many as there are processors for us, up to 8."""
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


def each(work: Callable[[_Item], _Made], items: Iterable[_Item]) -> list[_Made]:
    """``work`` of every item, in their order; the items are made one by one, as they are taken.

    What fails first, in ``work`` or in making an item, is raised; no item is taken after it.
    """
    rest = enumerate(items)
    lock = threading.Lock()
    made: dict[int, _Made] = {}
    failed: list[BaseException] = []
    stop = threading.Event()

    def run() -> None:
        try:
            while not stop.is_set():
                with lock:
                    number, item = next(rest, (-1, None))
                if item is None:
                    return
                made[number] = work(item)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            failed.append(error)
            stop.set()

    running: list[threading.Thread] = []
    try:
        for _ in range(threads()):
            running.append(threading.Thread(target=run, name="pages"))
            running[-1].start()
        for thread in running:
            thread.join()
    finally:  # also when a signal has ended the wait
        stop.set()
        for thread in running:
            if thread.ident is not None:
                thread.join()
    if failed:
        raise failed[0]
    return [made[number] for number in sorted(made)]
