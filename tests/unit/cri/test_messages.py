from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cri.messages import first_id, parse
from cri.proto import cri_pb2 as pb


def test_the_id_that_a_message_is_about() -> None:
    assert first_id(pb.RemovePodSandboxRequest(pod_sandbox_id="s").SerializeToString()) == "s"
    assert first_id(pb.CreateContainerResponse(container_id="c").SerializeToString()) == "c"
    assert first_id(pb.StopContainerRequest(container_id="c", timeout=3).SerializeToString()) == "c"
    assert first_id(b"") == ""


@given(st.binary(max_size=30))
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    message = parse(pb.StartContainerRequest, data)
    assert first_id(data) == (message.container_id if message else "")


def test_what_is_no_message_is_none() -> None:
    assert parse(pb.CreateContainerRequest, b"\x0a\xff") is None
    assert first_id(b"\x0a\x02\xff\xff") == ""  # not UTF-8
