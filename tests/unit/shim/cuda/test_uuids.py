from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cuda import uuids
from shim.errors import Unfit


@given(st.uuids())
def test_there_and_back(one: uuid.UUID) -> None:
    text = f"GPU-{one}"
    assert uuids.is_gpu(text)
    assert uuids.to_bytes(text) == one.bytes


@pytest.mark.parametrize("text", ["", "GPU-", "MIG-2ee1d4ae-2dc1-68e0-d3a5-62db08634ea6", "GPU-x"])
def test_what_is_none(text: str) -> None:
    assert not uuids.is_gpu(text)
    with pytest.raises(Unfit, match="UUID of a GPU"):
        uuids.to_bytes(text)
