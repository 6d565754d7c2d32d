"""Write an OCI image archive that ``ctr images import`` takes; no registry is involved.

    layer = layer_from_directory(tree, work / "base.tar")
    write_image(work / "app.oci.tar", "podthaw.test/app:1", [layer], entrypoint=["/app"])

Layers stay uncompressed: they are imported from a local disk, where gzip would only cost time.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Blob:
    """Content of the archive, addressed by its digest."""

    digest: str
    size: int
    source: Path | bytes

    @property
    def name(self) -> str:
        return "blobs/" + self.digest.replace(":", "/")

    def descriptor(self, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


def layer_from_directory(directory: Path, target: Path, *, under: str = "") -> Path:
    """Pack a directory as an image layer; ``under`` puts it below that path in the image.

    GNU tar, because it keeps extended attributes and is quick with many files.
    """
    command = ["tar", "--create", "--sort=name", "--numeric-owner", "--xattrs"]
    command += ["--xattrs-include=*", "--one-file-system", f"--file={target}"]
    if under:
        command.append(f"--transform=flags=r;s,^\\.,{under.strip('/')},")
    subprocess.run([*command, f"--directory={directory}", "."], check=True)
    return target


def write_image(
    target: Path,
    name: str,
    layers: Sequence[Path],
    *,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    workdir: str = "/",
    user: str = "",
) -> Path:
    """Write the image ``name`` made of tar ``layers``, lowest first."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"} | dict(env or {})
    blobs = [_file_blob(layer) for layer in layers]
    config = _json_blob(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "Entrypoint": list(entrypoint) or None,
                "Cmd": list(command) or None,
                "Env": [f"{key}={value}" for key, value in environment.items()],
                "WorkingDir": workdir,
                "User": user,
            },
            "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in blobs]},
        }
    )
    manifest = _json_blob(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [blob.descriptor("application/vnd.oci.image.layer.v1.tar") for blob in blobs],
        }
    )
    entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    partial = target.with_name(target.name + ".partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(archive, "index.json", json.dumps(index).encode())
        # A layer that is used twice is one blob.
        for blob in {blob.digest: blob for blob in [config, manifest, *blobs]}.values():
            _add(archive, blob.name, blob.source)
    partial.rename(target)
    return target


def _json_blob(value: object) -> Blob:
    data = json.dumps(value, sort_keys=True).encode()
    return Blob("sha256:" + hashlib.sha256(data).hexdigest(), len(data), data)


def _file_blob(path: Path) -> Blob:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return Blob("sha256:" + digest.hexdigest(), path.stat().st_size, path)


def _add(archive: tarfile.TarFile, name: str, source: Path | bytes) -> None:
    entry = tarfile.TarInfo(name)
    if isinstance(source, bytes):
        entry.size = len(source)
        archive.addfile(entry, io.BytesIO(source))
        return
    entry.size = source.stat().st_size
    with source.open("rb") as file:
        archive.addfile(entry, file)
