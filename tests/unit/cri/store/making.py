"""Snapshots for the tests of the store: real files, an honest manifest, no CRIU."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cri.store import Store
from shim.snapshot import Artifact, HostNeeds, Manifest, Source, encode

FILES = {
    "images/inventory.img": b"inventory",
    "images/pages-1.img": b"\1" * 5000,
    "rootfs.tar": b"",
}


def manifest(files: dict[str, bytes], *, image: str = "registry.example/shop:1") -> bytes:
    """The bytes of a manifest that lists these files."""
    return encode(
        Manifest(
            created="2026-11-24T10:00:00Z",
            source=Source(
                namespace="shop",
                pod="web-0",
                pod_uid="3b0f",
                container="web",
                container_id="c" * 64,
                image=image,
                image_digest="sha256:" + "1" * 64,
                command=["python3", "-m", "server"],
            ),
            host=HostNeeds(
                arch="x86_64",
                kernel="6.18.0",
                criu="4.2.1",
                cpu_features=["avx2"],
                page_size=4096,
                cgroup=2,
            ),
            security={"capabilities": []},
            mounts=[],
            processes=[],
            addresses=["10.88.0.5"],
            hostname="web-0",
            stdio=["pipe:[1]", "pipe:[2]", "pipe:[3]"],
            artifacts=[
                Artifact(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
                for path, data in sorted(files.items())
            ],
        )
    )


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files below a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def publish(
    store: Store,
    seed: str = "",
    *,
    files: dict[str, bytes] | None = None,
    image: str = "registry.example/shop:1",
) -> str:
    """Publish a snapshot that differs by its seed; returns the digest."""
    content = {**(FILES if files is None else files), "images/seed.img": seed.encode()}
    with store.stage() as stage:
        write(stage, content)
        return store.publish(stage, manifest(content, image=image))
