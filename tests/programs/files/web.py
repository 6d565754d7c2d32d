# ruff: noqa: INP001 - scripts of an image, no package
"""A WSGI and an ASGI application with state in each worker."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

numbers = itertools.count(1)
table = {number: number * number for number in range(50_000)}


def _answer() -> bytes:
    print("hit", flush=True)
    answer = {"worker": os.getpid(), "hits": next(numbers), "sum": sum(table.values())}
    return json.dumps(answer).encode()


def wsgi(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """PEP 3333."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [_answer()]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """ASGI 3, with its lifespan."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = _answer()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
