"""An image with a C library and a Python of its own, as real ones have: made of the node's parts.

The driver must be brought into it whole: libraries, their links, the linker's cache.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.gpu.daemons import PYTHON, run
from tests.node import oci

OWN = "podthaw.test/own:1"
INTERPRETER = f"/usr/bin/python{PYTHON}"

_PARTS = (
    INTERPRETER,
    f"/usr/lib/python{PYTHON}",
    "/usr/bin/dash",
    "/usr/bin/grep",
    "/usr/bin/sh",
    "/usr/sbin/ldconfig",
    "/usr/lib64",
    "/etc/passwd",
    "/etc/group",
)
_FOLDERS = ("dev", "etc/ld.so.conf.d", "proc", "programs", "root", "run", "sys", "tmp")
_LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}


def make(folder: Path) -> None:
    """Make it and give it to containerd."""
    layer = folder / "own.tar"
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as out:
        for name in _FOLDERS:
            out.addfile(_entry(name, tarfile.DIRTYPE))
        for name, target in _LINKS.items():
            link = _entry(name, tarfile.SYMTYPE)
            link.linkname = target
            out.addfile(link)
        libraries = map(str, Path("/usr/lib/x86_64-linux-gnu").glob("*.so*"))
        for path in (*_PARTS, *libraries):
            out.add(path, arcname=path.lstrip("/"))
    archive = oci.write_image(folder / "own.oci.tar", OWN, [layer], command=["/bin/sh"])
    run(["ctr", "-n", "k8s.io", "images", "import", str(archive)])


def _entry(name: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = 0o1777 if name == "tmp" else 0o755
    return entry
