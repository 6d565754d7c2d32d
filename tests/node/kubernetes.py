"""Where a kubelet comes from: $KUBELET, the cache, the official release, or a build."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from tests.node import cache, gobuild
from tests.node.debian import Unavailable

RELEASES = "https://dl.k8s.io/release"


def kubelet() -> Path:
    """A kubelet of the pinned version (or the one that $KUBELET names)."""
    if explicit := os.environ.get("KUBELET"):
        path = Path(explicit)
        if not os.access(path, os.X_OK):
            raise Unavailable(f"KUBELET={explicit} is not an executable file")
        return path
    return program(gobuild.KUBELET)


def program(wanted: gobuild.Program) -> Path:
    """A program of Kubernetes: cached, downloaded from the release, or built."""
    name = f"{wanted.name}-{gobuild.KUBERNETES_VERSION}-{gobuild.architecture()}"
    official = cache.root() / name
    built = cache.root() / f"{wanted.name}-{wanted.key}"
    for path in (official, built):
        if path.exists():
            return path
    try:
        return cache.once(name, lambda target: _download(wanted.name, target))
    except OSError as error:
        print(f"== no release of {wanted.name} ({error}): building it")
    return gobuild.binary(wanted)


def _download(name: str, target: Path) -> None:
    url = f"{RELEASES}/{gobuild.KUBERNETES_VERSION}/bin/linux/{gobuild.architecture()}/{name}"
    with cache.step(f"downloading {name} {gobuild.KUBERNETES_VERSION}"):
        # The checksum comes first: it is small, and shows quickly whether anything answers.
        with urllib.request.urlopen(f"{url}.sha256", timeout=5) as answer:  # noqa: S310
            wanted = answer.read().decode().split()[0]
        digest = hashlib.sha256()
        with urllib.request.urlopen(url, timeout=30) as answer, target.open("wb") as file:  # noqa: S310
            while chunk := answer.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
    if digest.hexdigest() != wanted:
        raise OSError(f"{url} does not have the published SHA-256 sum")
    target.chmod(0o755)
