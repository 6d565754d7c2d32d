"""A capture that a CRI call asked for, made by ``podthaw capture`` in a process of its own.

So the daemon stays small, and a capture that dies takes nothing with it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress

_PATIENCE = 20.0  # seconds that a capture has to let the container go after it was told to stop
_LAST = 1000  # characters of its message


async def capture(
    program: Sequence[str], container: str, location: str, limit: float | None
) -> str:
    """Capture a container into a tar at ``location``; why that failed, or an empty text.

    ``limit`` is in seconds, None for none. When the caller is cancelled, so is the
    capture: the container runs on as if nothing had been.
    """
    if not location.startswith("/"):
        return f"podthaw: the location of a checkpoint must be an absolute path, found {location!r}"
    timeout = [] if limit is None else ["--timeout", f"{max(1, int(limit))}s"]
    try:
        process = await _start(
            [*program, "--container-id", container, "--export", location, *timeout]
        )
    except OSError as error:
        return f"podthaw: {program[0]} cannot be run: {error.strerror}"
    try:
        _, errors = await process.communicate()
    except asyncio.CancelledError:
        await asyncio.shield(asyncio.ensure_future(_stop(process)))
        raise
    if process.returncode == 0:
        return ""
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines() if line.strip()]
    # Notes may stand before the sentence, and its details after it.
    told = [line for line in lines if line.startswith("podthaw: ")] or lines
    message = told[-1] if told else f"the capture ended with status {process.returncode}"
    return f"podthaw: {message.removeprefix('podthaw: ')}"[:_LAST]


async def _start(command: Sequence[str]) -> asyncio.subprocess.Process:
    """The process; when the caller is cancelled meanwhile, it is told to stop.

    asyncio would kill it, and a capture that is killed cannot let its container go.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(OSError):
            await asyncio.shield(asyncio.ensure_future(_stop(await starting)))
        raise


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_PATIENCE):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
