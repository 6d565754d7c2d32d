"""Become a node on a bare machine: its own mount namespace whose root is the carried tree.

Nothing is installed on the machine. The tree lies in one folder; what the node mounts is gone with
its namespace; the machine's root file system is seen below /host, its GPU driver by :mod:`cdi`.
Standard library only: this is run by the machine's own Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.gpu import cdi

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path("/var/tmp/podthaw-gpu")
"""On a disk: containerd's snapshots and Podthaw's store lie in it."""

ENTER = """
set -e
tree=$1 repository=$2 output=$3; shift 3
mount --make-rprivate /
mount --bind "$tree" "$tree"
for folder in dev proc sys; do mount --rbind /$folder "$tree/$folder"; done
mount -t tmpfs -o mode=755 tmpfs "$tree/run"
mount -t tmpfs tmpfs "$tree/tmp"
mkdir -p "$tree/host" "$tree/repository" "$tree/output" "$tree/old"
mount --bind / "$tree/host"
mount --bind "$repository" "$tree/repository"
mount --bind "$output" "$tree/output"
for folder; do mkdir -p "$tree$folder"; mount --rbind "$folder" "$tree$folder"; done
cd "$tree"
pivot_root . old
umount -l /old
cd /repository
dependencies=$(echo /carried/cache/*)
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
  PYTHONPATH=$dependencies:/repository PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
  "GPU_SETTINGS=$GPU_SETTINGS" /usr/bin/python3 -m tests.gpu.inside
"""


def enter(archive: Path, output: Path, settings: str, extra: Sequence[str]) -> int:
    """Unpack, enter and run :mod:`tests.gpu.inside`; its exit status. ``extra``: folders to see."""
    if os.geteuid() != 0:
        raise SystemExit("a node needs root")
    shutil.rmtree(FOLDER, ignore_errors=True)
    tree = FOLDER / "tree"
    tree.mkdir(mode=0o755, parents=True)
    subprocess.run(["tar", "-x", "-J", "-f", str(archive), "-C", str(tree)], check=True)
    cdi.link_driver(tree)
    output.mkdir(parents=True, exist_ok=True)
    arguments = [str(tree), str(REPOSITORY), str(output.resolve()), *extra]
    command = ["unshare", "--mount", "/bin/sh", "-c", ENTER, "sh", *arguments]
    done = subprocess.run(command, env=os.environ | {"GPU_SETTINGS": settings}, check=False)
    shutil.rmtree(FOLDER, ignore_errors=True)
    return done.returncode
