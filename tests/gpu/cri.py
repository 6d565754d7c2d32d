"""A client of the CRI inside the carried node: Podthaw's own HTTP/2, the CRI's whole definition.

The tests on other nodes use gRPC's (tests/node/cri.py), which is not carried along.
"""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from cri.http2.client import Client

DEFINITION = Path("/carried/cri.binpb")


class Cri:
    """Unary calls at one socket."""

    def __init__(self, socket: str) -> None:
        self._runner = asyncio.Runner()
        self._socket = socket
        self._client: Client | None = None

    def call(self, method: str, /, *, deadline: float = 300, **fields: Any) -> Any:
        """One call by its name; fields as in the proto's JSON form, the answer is the message."""
        path, request, response = _method(method)
        data = json_format.ParseDict(fields, request()).SerializeToString()

        async def ask() -> bytes:
            if self._client is None:
                self._client = Client(self._socket)
            return await self._client.unary(path, data, deadline)

        return response.FromString(self._runner.run(ask()))

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._runner.run(asyncio.sleep(0))
        self._runner.close()


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    # A pool of its own: Podthaw's minimal definition has the same names.
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DEFINITION.read_bytes()).file:
        pool.Add(file)
    return pool


@cache
def _method(name: str) -> tuple[str, Any, Any]:
    """A method's path and the classes of its request and response."""
    for service in ("RuntimeService", "ImageService"):
        found = _pool().FindServiceByName(f"runtime.v1.{service}").methods_by_name.get(name)
        if found is not None:
            request, response = (
                message_factory.GetMessageClass(kind)
                for kind in (found.input_type, found.output_type)
            )
            return f"/runtime.v1.{service}/{name}", request, response
    raise ValueError(f"the CRI has no call {name}")
