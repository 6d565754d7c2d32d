"""The tests' CRI client, with answers that are dictionaries by the field names of api.proto."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import json_format

from tests.node import cri

RpcError = grpc.RpcError


class Cri(cri.Cri):
    """Calls at one socket."""

    def ask(self, method: str, /, *, deadline: float = 120, **fields: Any) -> dict[str, Any]:
        """One unary call; fields that are not set have their defaults in the answer."""
        answer: dict[str, Any] = json_format.MessageToDict(
            self.call(method, deadline=deadline, **fields),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        return answer


def reason(error: grpc.RpcError) -> str:
    """Code and message of a failed call, as a person reads them."""
    return f"{error.code().name}: {error.details()}"
