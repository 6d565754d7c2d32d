"""CRI messages that may be anything: what cannot be read is not ours to judge, but to pass on."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from cri.proto import cri_pb2 as pb

_M = TypeVar("_M", bound=Message)


def parse(kind: type[_M], data: bytes) -> _M | None:
    """The message, or None when the bytes are none of that kind."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def first_id(data: bytes) -> str:
    """The text of field 1, where CRI has the id that a request or answer is about.

    Empty when there is none.
    """
    message = parse(pb.StartContainerRequest, data)
    return "" if message is None else message.container_id
