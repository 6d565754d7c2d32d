"""Doing a small thing inside another namespace.

A thread of its own enters the namespace and ends there, so nothing else of this process ever
does (setns(2) is per thread for network and IPC namespaces).
"""

from __future__ import annotations

import ctypes
import os
import threading

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


def in_namespace(path: str, work: Callable[[], T]) -> T:
    """Call ``work`` in the namespace that ``path`` names; its exception is raised here.

    Raises OSError when the namespace cannot be entered. Processes that ``work`` starts are in the
    namespace too.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _enter(path)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(fd)
