"""Garbage collection of the store at intervals, by ``podthaw gc`` in a process of its own.

So the daemon stays small, a store that hangs does not hang it, and what the daemon removes is what
``podthaw gc --dry-run`` shows. Nodes that share a store each collect; they do not disturb one
another, and a random share of the interval keeps them apart.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Sequence
from contextlib import suppress

log = logging.getLogger("podthaw.gc")

INTERVAL = 3600.0
"""Seconds between two collections, on average."""

_LIMIT = 1800.0  # seconds after which a collection is given up


async def collect(program: Sequence[str], *, interval: float = INTERVAL) -> None:
    """Run ``<program> gc --quiet`` over and over, until cancelled. Never raises otherwise."""
    while True:
        await asyncio.sleep(interval * random.uniform(0.5, 1.5))  # noqa: S311 - only to spread
        await collect_once(program)


async def collect_once(program: Sequence[str], *, limit: float = _LIMIT) -> None:
    """One collection; what it removed and what failed goes to the log."""
    try:
        process = await asyncio.create_subprocess_exec(
            *program,
            "gc",
            "--quiet",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        log.warning("no garbage collection: %s cannot be run: %s", program[0], error.strerror)
        return
    try:
        async with asyncio.timeout(limit):
            removed, told = await process.communicate()
    except TimeoutError:
        log.warning("the garbage collection did not end within %g s", limit)
        return
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
    for digest in removed.decode(errors="replace").split():
        log.info("removed the snapshot %s", digest)
    for line in told.decode(errors="replace").splitlines():
        log.warning("garbage collection: %s", line.removeprefix("podthaw: "))
    if process.returncode and not told:
        log.warning("the garbage collection ended with status %d", process.returncode)
