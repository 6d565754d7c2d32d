"""The image with all programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.node import cache, debian, images, oci
from tests.node.debian import Unavailable

FILES = Path(__file__).parent / "files"
PROGRAMS = "podthaw.test/programs:1"
PACKAGES = (
    "apache2",
    "attr",
    "busybox-static",
    "dumb-init",
    "erlang-base",
    "erlang-inets",
    "gunicorn",
    "haproxy",
    "iproute2",
    "mariadb-server",
    "memcached",
    "nginx-light",
    "nodejs",
    "openjdk-21-jdk-headless",
    "php-fpm",
    "postgresql",
    "puma",
    "python3",
    "python3-uvloop",
    "redis-server",
    "sqlite3",
    "tini",
    "uvicorn",
)
DIRECTORY = "/programs"
"""Where the files beside this module are in the image."""


def image() -> Path:
    """The OCI archive of PROGRAMS: Debian with the packages, and a layer with our files."""
    base = debian.tree(images.WORKLOAD_SUITE, PACKAGES)
    sources = sorted(path for path in FILES.rglob("*") if path.is_file())
    version = cache.key(base.name, Path(__file__), Path(oci.__file__), *sources)

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache.root(), prefix=".programs-") as scratch:
            tree = Path(scratch) / "tree"
            shutil.copytree(FILES, tree)
            _build_go(tree / "goserver", tree / "go_server")
            layer = Path(scratch) / "layer.tar"
            oci.layer_from_directory(tree, layer, under=DIRECTORY)
            oci.write_image(target, PROGRAMS, [base, layer], command=["/bin/sh"])

    return cache.once(f"image-programs-{version}.oci.tar", build)


def _build_go(source: Path, target: Path) -> None:
    """A static binary by the machine's Go; the program needs the standard library alone."""
    if not shutil.which("go"):
        raise Unavailable("please install Go: one of the programs is written in it")
    environment = os.environ | {"CGO_ENABLED": "0"}
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-o", str(target), "."]
    subprocess.run(command, cwd=source, env=environment, check=True)
