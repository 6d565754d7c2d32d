from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

import cri.proto
from cri.proto import cri_pb2 as pb
from cri.proto.generate import generate

COMMITTED = Path(cri.proto.__file__).parent


@pytest.mark.parametrize("name", ["cri_pb2.py", "cri_pb2.pyi"])
def test_the_committed_modules_are_fresh(tmp_path: Path, name: str) -> None:
    generate(tmp_path)
    fresh = (tmp_path / "cri/proto" / name).read_text()
    assert fresh == (COMMITTED / name).read_text(), "run: python -m cri.proto.generate"


def with_more_fields(kind: type[Message]) -> type[Message]:
    """A message type that has fields which ours does not know, at every level it reaches."""
    known = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(known)
    known.name, known.package = "newer.proto", "newer"
    for message in known.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".runtime.v1.", ".newer.")
        for number, label in ((900, 1), (901, 3)):
            message.field.add(name=f"later_{number}", number=number, type=12, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(known)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"newer.{kind.__name__}"))


def fill(message: Message, depth: int = 0) -> None:
    """Sets every field, unknown ones to octets that tell where they stood."""
    for field in message.DESCRIPTOR.fields:
        repeated = field.is_repeated
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)["key"] = f"{field.name} {depth}"
        elif field.message_type is not None:
            if depth < 5:
                into = getattr(message, field.name)
                fill(into.add() if repeated else into, depth + 1)
        elif repeated:
            value: object = b"\xff more" if field.type == field.TYPE_BYTES else "text"
            getattr(message, field.name).append(value)
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, f"{message.DESCRIPTOR.name} {depth}".encode())
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, f"{field.name} {depth}")
        elif field.type == field.TYPE_BOOL:
            setattr(message, field.name, True)
        else:
            setattr(message, field.name, 1)


KINDS = [
    pb.RunPodSandboxRequest,
    pb.CreateContainerRequest,
    pb.PodSandboxStatusResponse,
    pb.ListPodSandboxResponse,
    pb.StreamPodSandboxesResponse,
    pb.ContainerEventResponse,
    pb.StatusResponse,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_fields_of_a_newer_cri_survive(kind: type[Message]) -> None:
    newer = with_more_fields(kind)
    full = newer()
    fill(full)
    ours = kind.FromString(full.SerializeToString())
    again = newer.FromString(ours.SerializeToString())
    assert again == full
    assert b"\xff more" in again.SerializeToString()


def test_a_rewritten_field_leaves_unknown_ones_alone() -> None:
    newer = with_more_fields(pb.RunPodSandboxRequest)
    full = newer()
    fill(full)
    ours = pb.RunPodSandboxRequest.FromString(full.SerializeToString())
    ours.runtime_handler = "podthaw"
    again = newer.FromString(ours.SerializeToString())
    assert again.runtime_handler == "podthaw"  # type: ignore[attr-defined]
    again.runtime_handler = full.runtime_handler  # type: ignore[attr-defined]
    assert again == full
