"""Small snapshots for the tests of the daemon's decisions."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

from shim import snapshot
from shim.criu import images
from shim.criu.images import Entry, Image
from shim.criu.wire import Message
from shim.snapshot import Artifact, HostNeeds, Manifest, Source

HOST = HostNeeds(
    arch="x86_64", kernel="6.12.9", criu="4.1.1", cpu_features=["avx2"], page_size=4096, cgroup=2
)
IMAGE = "sha256:" + "1" * 64
COMMAND = ["/serve", "--model", "small"]


def criu_image(magic: int, *messages: Message) -> bytes:
    """An image file of CRIU's."""
    common = b"" if magic == images.INVENTORY else struct.pack("<I", images.COMMON_MAGIC)
    header = common + struct.pack("<I", magic)
    return images.encode(Image(header, magic, [Entry(one.encode()) for one in messages]))


def message(**fields: int | bytes) -> Message:
    """``message(f1=2)``: a message with field 1."""
    out = Message()
    for key, value in fields.items():
        if isinstance(value, int):
            out.set_uint(int(key[1:]), value)
        else:
            out.set_bytes(int(key[1:]), value)
    return out


def default_files() -> dict[str, bytes]:
    """What a dump of a process without sockets leaves, in little."""
    return {
        "images/inventory.img": criu_image(images.INVENTORY, message(f1=2, f11=0)),
        "images/files.img": criu_image(images.FILES, message(f1=1, f2=2)),
        "images/pstree.img": criu_image(0x50273030, message(f1=1)),
        "images/utsns-9.img": criu_image(images.UTSNS, message(f1=b"old-pod", f2=b"(none)")),
        "images/pages-1.img": b"\0" * 300_000,
        "images/descriptors.json": b'["/dev/null", "pipe:[1]", "pipe:[2]"]',
        "rootfs.tar": b"tar",
    }


def write(
    folder: Path, files: dict[str, bytes] | None = None, **changes: object
) -> tuple[bytes, Manifest]:
    """Write a snapshot's artifacts into a folder; the manifest's bytes and the manifest."""
    files = default_files() if files is None else files
    artifacts = []
    for path, data in sorted(files.items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        artifacts.append(
            Artifact(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        )
    manifest = Manifest(
        created="2026-01-02T03:04:05Z",
        source=Source(
            namespace="default",
            pod="old-pod",
            pod_uid="old-uid",
            container="web",
            container_id="0" * 64,
            image="example/web:1",
            image_digest=IMAGE,
            command=COMMAND,
        ),
        host=HOST,
        security={},
        mounts=[],
        processes=[],
        addresses=["10.88.0.5"],
        hostname="old-pod",
        stdio=["/dev/null", "pipe:[1]", "pipe:[2]"],
        artifacts=artifacts,
    )
    manifest = replace(manifest, **changes)  # type: ignore[arg-type]
    return snapshot.encode(manifest), manifest
