"""What the relay and the interceptor agree on: a call that a hook sees, and how a call fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from typing import NoReturn, Protocol


class StatusCode(IntEnum):
    """gRPC's status codes, with gRPC's numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call that did not end with OK.

    ``code`` is a :class:`StatusCode`, or a plain int for a number that gRPC does not know;
    ``details`` is the serialized ``google.rpc.Status`` of ``grpc-status-details-bin``, or empty.
    """

    def __init__(self, code: int, message: str, details: bytes = b"") -> None:
        try:
            code = StatusCode(code)
        except ValueError:
            name = str(code)
        else:
            name = code.name
        super().__init__(f"{name}: {message}")
        self.code = code
        self.message = message
        self.details = details


Metadata = Sequence[tuple[str, str | bytes]]
"""Keys in lower case; the values of keys that end in ``-bin`` are bytes."""


class Call(Protocol):
    """One unary call of a client, held for a hook."""

    @property
    def method(self) -> str:
        """The full name, such as ``/runtime.v1.RuntimeService/CreateContainer``."""

    @property
    def request(self) -> bytes:
        """The serialized request, decompressed."""

    @property
    def metadata(self) -> Metadata:
        """The client's request metadata."""

    def remaining(self) -> float | None:
        """Seconds until the client's deadline, at least 0; None without a deadline."""

    async def forward(self, request: bytes | None = None) -> bytes:
        """Asks containerd, with another request if one is given; the serialized response.

        A call can be forwarded once.

        Raises:
            RpcError: containerd's answer; unhandled, it reaches the client exactly as it came.
        """

    def abort(self, code: int, message: str) -> NoReturn:
        """Ends the call with an error, usually a :class:`StatusCode`."""


UnaryHook = Callable[[Call], Awaitable[bytes]]
"""Answers a call. Cancelled when the client cancels, goes away, or its deadline passes."""

ResponseFilter = Callable[[bytes], bytes]
"""Rewrites one serialized response message; returns its argument when there is nothing to do."""


class Interceptor(Protocol):
    """Whoever looks into calls: both tables are keyed by the full method name."""

    def hooks(self) -> Mapping[str, UnaryHook]:
        """What answers a method's calls in containerd's stead."""

    def filters(self) -> Mapping[str, ResponseFilter]:
        """What rewrites a method's responses, also those that a hook has returned."""
