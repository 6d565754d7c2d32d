"""The node as one archive, small enough to be carried to a machine without a network.

    python -m tests.gpu pack                  writes build/gpu/node.tar.xz

Debian's containerd, runc, CRIU and Python with their libraries, from the test node's tree;
Podthaw's dependencies; NVIDIA's container runtime; the CRI's definition; an empty image. What does
not run in a node is left out. Podthaw itself is that of the repository on the other machine.
"""

from __future__ import annotations

import fnmatch
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from deploy import stage
from tests.gpu.daemons import PYTHON
from tests.gpu.pods import IMAGE
from tests.node import cache, cri, debian, gobuild, images, oci

REPOSITORY = Path(__file__).parents[2]
TARGET = REPOSITORY / "build/gpu/node.tar.xz"
_SKIPPED = (
    "boot*",
    "home*",
    "media*",
    "srv*",
    "dev/*",
    "usr/bin/apt*",
    "usr/bin/crun",
    "usr/bin/dpkg*",
    "usr/bin/localedef",
    "usr/bin/openssl",
    "usr/bin/perl*",
    "usr/bin/sqv",
    "usr/bin/strace",
    "usr/games*",
    "usr/include*",
    "usr/lib/*/gconv*",
    "usr/lib/*/libapt-*",
    "usr/lib/*/libcrun.a",
    "usr/lib/*/libsqlite3*",
    "usr/lib/*/libstdc++*",
    "usr/lib/*/perl-base*",
    "usr/lib/apt*",
    "usr/lib/containerd/*",
    "usr/lib/python3*/idlelib*",
    "usr/lib/python3*/pydoc_data*",
    "usr/lib/python3*/test*",
    "usr/lib/python3*/ensurepip*",
    "usr/lib/systemd*",
    "usr/lib/udev*",
    "usr/sbin/fs-idmap",
    "usr/sbin/pidfd-kill",
    "usr/sbin/recvtty",
    "usr/sbin/remap-rootfs",
    "usr/sbin/sd-helper",
    "usr/sbin/seccompagent",
    "usr/share/[!c]*",
    "usr/src*",
    "var/cache/*",
    "var/lib/apt*",
    "var/lib/dpkg*",
)
_PLUGINS = ("bridge", "host-local", "loopback")
"""Of usr/lib/cni: what tests/node/files/cni.conflist asks for, and what containerd does."""


def pack(target: Path = TARGET) -> Path:
    """Write the archive; answers its path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with (
        cache.step(f"packing {target.name} (2 min)"),
        tempfile.TemporaryDirectory() as scratch,
        partial.open("wb") as raw,
    ):
        with subprocess.Popen(
            ["xz", "-6", "-T0", "-c"], stdin=subprocess.PIPE, stdout=raw
        ) as packer:
            assert packer.stdin is not None
            with tarfile.open(fileobj=packer.stdin, mode="w|", format=tarfile.PAX_FORMAT) as out:
                _debian(out)
                _ours(out, Path(scratch))
        if packer.returncode:
            raise RuntimeError(f"xz ended with status {packer.returncode}")
    partial.rename(target)
    return target


def wanted(name: str) -> bool:
    """Whether a file of the Debian tree, by its relative path, is carried along."""
    if name.startswith("usr/lib/cni/"):
        return PurePosixPath(name).name in _PLUGINS
    return "__pycache__" not in name and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in _SKIPPED
    )


def _debian(out: tarfile.TarFile) -> None:
    with tarfile.open(debian.tree("sid", images.NODE_PACKAGES)) as tree:
        for member in tree:
            member.name = member.name.removeprefix("./")
            if wanted(member.name) and not member.isdev():
                out.addfile(member, tree.extractfile(member) if member.isreg() else None)


def _ours(out: tarfile.TarFile, scratch: Path) -> None:
    dependencies = stage.cached_dependencies(cache.root(), PYTHON)
    _add(out, dependencies, f"carried/cache/{dependencies.name}")
    for program in gobuild.TOOLKIT[:2]:
        _add(out, gobuild.binary(program), f"usr/bin/{program.name}")
    _add(out, images.workload_images()[0], "carried/pause.oci.tar")
    _add(out, _image(scratch), "carried/gpu.oci.tar")
    definition = cri.definition().SerializeToString()
    entry = tarfile.TarInfo("carried/cri.binpb")
    entry.size = len(definition)
    out.addfile(entry, io.BytesIO(definition))


def _image(scratch: Path) -> Path:
    tree = scratch / "image"
    for folder in ("dev", "etc", "opt", "proc", "programs", "root", "run", "sys", "tmp", "usr"):
        (tree / folder).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    for name in ("bin", "lib", "lib64", "sbin"):
        (tree / name).symlink_to(f"usr/{name}")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    layer = oci.layer_from_directory(tree, scratch / "layer.tar")
    return oci.write_image(scratch / "gpu.oci.tar", IMAGE, [layer], command=["/bin/sh"])


def _add(out: tarfile.TarFile, path: Path, name: str) -> None:
    def as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in entry.name:
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    out.add(path, arcname=name, filter=as_root)
