"""The node images, for the Docker engine, and the images that test pods run, for containerd.

SUITES      sid has containerd 2.1 and CRIU 4.2, trixie containerd 1.7 and CRIU 4.1
PAUSE       the sandbox image
BUSYBOX     a static busybox: the smallest container with a shell
PYTHON      Debian with Python, busybox, ip and setfattr
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

import docker
from docker.errors import ImageNotFound

from tests.node import cache, debian, oci

NODE_PACKAGES = (
    "attr",
    "busybox-static",
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "criu",
    "crun",
    "iproute2",
    "iptables",
    "nftables",
    "procps",
    "python3",
    "runc",
    "strace",
    "util-linux",
)
SUITES = ("sid", "trixie")

# Trixie rather than sid: its Python has wheels of everything.
WORKLOAD_SUITE = "trixie"
WORKLOAD_PACKAGES = ("attr", "busybox-static", "iproute2", "python3")

PAUSE = "podthaw.test/pause:1"
BUSYBOX = "podthaw.test/busybox:1"
PYTHON = "podthaw.test/python:1"


def node_image(client: docker.DockerClient, suite: str = "sid") -> str:
    """The tag of the node image in this engine, built and imported if it is not there."""
    tree = debian.tree(suite, NODE_PACKAGES)
    tag = f"{suite}-{tree.stem.rpartition('-')[2]}"
    name = f"podthaw-node:{tag}"
    try:
        client.images.get(name)
    except ImageNotFound:
        with cache.step(f"importing {name}"):
            client.api.import_image_from_file(str(tree), repository="podthaw-node", tag=tag)
    return name


def workload_tree() -> Path:
    """The tar of the Debian tree below PYTHON: a base layer for images with programs in Python."""
    return debian.tree(WORKLOAD_SUITE, WORKLOAD_PACKAGES)


def workload_images() -> list[Path]:
    """The OCI archives of PAUSE, BUSYBOX and PYTHON."""
    base = workload_tree()
    version = cache.key(base.name, Path(__file__), Path(oci.__file__))
    return [
        cache.once(f"image-pause-{version}.oci.tar", lambda at: _busybox(at, base, PAUSE)),
        cache.once(f"image-busybox-{version}.oci.tar", lambda at: _busybox(at, base, BUSYBOX)),
        cache.once(
            f"image-python-{version}.oci.tar",
            lambda at: _write(at, PYTHON, base, ["/usr/bin/python3"]),
        ),
    ]


def _busybox(target: Path, base: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(dir=cache.root(), prefix=".busybox-") as scratch:
        tree = Path(scratch) / "tree"
        for directory in ("bin", "dev", "etc", "proc", "sys", "tmp", "var", "root"):
            (tree / directory).mkdir(parents=True)
        tree.joinpath("tmp").chmod(0o1777)
        busybox = tree / "bin/busybox"
        with tarfile.open(base) as archive:
            content = archive.extractfile("./usr/bin/busybox")
            assert content is not None
            busybox.write_bytes(content.read())
        busybox.chmod(0o755)
        applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
        for applet in applets.stdout.split():
            if applet != "busybox":
                (tree / "bin" / applet).symlink_to("busybox")
        (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (tree / "etc/group").write_text("root:x:0:\n")
        layer = oci.layer_from_directory(tree, Path(scratch) / "layer.tar")
        # As a sandbox's only process it has nothing to do; containerd ends it with SIGKILL.
        forever = ["/bin/busybox", "sleep", "2147483647"]
        _write(target, name, layer, forever if name == PAUSE else ["/bin/sh"])


def _write(target: Path, name: str, layer: Path, command: list[str]) -> None:
    if name == PAUSE:
        oci.write_image(target, name, [layer], entrypoint=command)
    else:
        oci.write_image(target, name, [layer], command=command)
