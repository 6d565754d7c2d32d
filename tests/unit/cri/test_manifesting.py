from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri import manifesting
from cri.proto import cri_pb2 as pb
from cri.target import Target
from shim import snapshot
from shim.container import ContainerRef, start_time
from shim.errors import Broken
from shim.picture import Picture, Task
from shim.snapshot import HostNeeds, Process

HOST = HostNeeds(
    arch="x86_64", kernel="6.1", criu="4.2.1", cpu_features=["avx"], page_size=4096, cgroup=1
)


def target(tmp_path: Path, **status: Any) -> Target:
    spec = {"process": {"args": ["server"]}, "mounts": [{"destination": "/proc", "type": "proc"}]}
    return Target(
        status=pb.ContainerStatus(
            id="c1",
            metadata=pb.ContainerMetadata(name="main", attempt=3),
            image=pb.ImageSpec(image="example/app:1"),
            **status,
        ),
        sandbox=pb.PodSandboxStatus(
            metadata=pb.PodSandboxMetadata(name="web-0", namespace="shop", uid="u1"),
            network=pb.PodSandboxNetworkStatus(ip="10.0.0.5"),
        ),
        image_id="sha256:abc",
        container=ContainerRef(
            id="c1",
            bundle=tmp_path,
            rootfs=tmp_path,
            pid=os.getpid(),
            started=start_time(os.getpid()) or 0,
            spec=spec,
            cgroups={},
            descriptors=(),
        ),
    )


SEEN = Picture(
    init=100,
    tasks=(
        Task(pid=100, inner=1, parent=50, name="server", threads=4, resident=10),
        Task(pid=130, inner=7, parent=100, name="worker"),
    ),
)


def test_the_manifest_says_what_it_is(tmp_path: Path) -> None:
    made = manifesting.build(
        target(tmp_path), SEEN, HOST, [], stdio=["/dev/null"], frozen_seconds=0.1234567
    )
    assert made.source.namespace == "shop"
    assert made.source.pod_uid == "u1"
    assert made.source.container == "main"
    assert made.source.image == "example/app:1"
    assert made.source.image_digest == "sha256:abc"
    assert made.source.command == ["server"]
    assert made.addresses == ["10.0.0.5"]
    assert made.hostname == os.uname().nodename
    assert made.created.endswith("Z")
    assert made.frozen_seconds == 0.123457
    assert made.processes == [
        Process(pid=1, parent=0, name="server", threads=4, resident=10),
        Process(pid=7, parent=1, name="worker", threads=1, resident=0),
    ]
    assert snapshot.decode(snapshot.encode(made)) == made


@pytest.mark.parametrize("workers", [1, 4])
def test_every_file_is_hashed(tmp_path: Path, workers: int) -> None:
    (tmp_path / "images").mkdir()
    content = {"rootfs.tar": b"r" * 3_000_000, "images/a": b"", "images/b": b"b"}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "manifest.json").write_text("{}")
    found = manifesting.hash_files(tmp_path, workers=workers)
    assert {(one.path, one.size, one.sha256) for one in found} == {
        (name, len(data), hashlib.sha256(data).hexdigest()) for name, data in content.items()
    }


def test_mapped_memory_is_not_read_again(tmp_path: Path) -> None:
    """Its digests were made when it was written."""
    with (tmp_path / "pages").open("wb") as file:
        file.truncate(1 << 40)
    listed = b"4096 8192 " + b"a" * 64 + b"\n"
    (tmp_path / "pages.sums").write_bytes(listed)
    pages, sums = manifesting.hash_files(tmp_path)
    assert pages.sha256 == sums.sha256 == hashlib.sha256(listed).hexdigest()
    assert (pages.path, pages.size, pages.stored) == ("pages", 1 << 40, 8192)


def test_digests_that_are_not_of_this_memory_are_broken(tmp_path: Path) -> None:
    (tmp_path / "pages").write_bytes(bytes(4096))
    (tmp_path / "pages.sums").write_bytes(b"4096 8192 " + b"a" * 64 + b"\n")
    with pytest.raises(Broken, match="lists more than the 4096 bytes"):
        manifesting.hash_files(tmp_path)


@given(st.integers(1, 8))
def test_an_empty_folder_has_no_files(
    tmp_path_factory: pytest.TempPathFactory, workers: int
) -> None:
    folder = tmp_path_factory.mktemp("empty")
    assert manifesting.hash_files(folder, workers=workers) == []
