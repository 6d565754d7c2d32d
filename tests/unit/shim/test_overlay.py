"""The overlay of a root filesystem: found, changed and given back; with real mounts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shim import mounts, overlay
from shim.errors import Unfit

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
REPOSITORY = Path(__file__).parents[3]


def inside(code: str, *arguments: object) -> str:
    """Run Python in a mount namespace of its own, the repository on its path."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", code,
         *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


PREPARE = """
import os, subprocess, sys
from pathlib import Path
from shim import mounts, overlay, rootfs_apply, errors
top = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "none", top], check=True)
snapshots = top / "snapshots"
for name in ("1", "2", "30, x"):
    (snapshots / name / "fs").mkdir(parents=True)
(snapshots / "30, x/work").mkdir()
upper = snapshots / "30, x/fs"
os.chmod(upper, 0o755)
(snapshots / "1/fs/low").write_text("low")
(snapshots / "2/fs/dir").mkdir()
(snapshots / "2/fs/dir/inner").write_text("inner")
target = top / "rootfs"
target.mkdir()
os.chdir(snapshots)
escaped = str(snapshots / "30, x").replace(",", "\\\\,")
options = f"lowerdir=2/fs:1/fs,upperdir={escaped}/fs,workdir={escaped}/work"
mounts.mount("overlay", str(target), "overlay", 2, options)
os.chdir("/")
"""


@needs_root
def test_found_changed_and_given_back(tmp_path: Path) -> None:
    inside(
        PREPARE
        + """
layer = overlay.find(str(target))
assert layer.upper == str(upper), layer
assert layer.folder == str(snapshots)
(target / "low").unlink()
(target / "dir/inner").write_text("changed")
(target / "new").mkdir()
os.chmod(target, 0o700)
os.setxattr(target, "user.x", b"1")
subprocess.run(["mount", "--bind", snapshots, target / "new"], check=True)
overlay.reset(layer)
overlay.reset(layer)
assert mounts.below(str(target)) == []
again = mounts.at(str(target))
assert again.type == "overlay" and "nosuid" in again.flags
assert (target / "low").read_text() == "low"
assert (target / "dir/inner").read_text() == "inner"
assert not (target / "new").exists()
assert target.stat().st_mode & 0o7777 == 0o755
assert os.listdir(upper) == [] and "user.x" not in os.listxattr(upper)
(target / "works").write_text("")
assert os.listdir(upper) == ["works"]
overlay.reset(layer, mount=False)
assert mounts.at(str(target)) is None and os.listdir(upper) == []
assert (snapshots / "1/fs/low").read_text() == "low"
subprocess.run(["rm", "-r", snapshots / "30, x"], check=True)
overlay.reset(layer, mount=False)
""",
        tmp_path,
    )


@needs_root
def test_a_layer_that_is_not_empty_and_what_is_no_overlay(tmp_path: Path) -> None:
    said = inside(
        PREPARE
        + """
for folder in (top, top / "snapshots", target):
    if folder == target:
        (target / "there").write_text("")
    try:
        overlay.find(str(folder))
    except errors.Unfit as error:
        print(error)
""",
        tmp_path,
    ).splitlines()
    assert "tmpfs" in said[0]
    assert "no mount" in said[1]
    assert "not empty before the start" in said[2]
    assert "'there'" in said[2]


@needs_root
def test_a_layer_is_applied_as_the_overlay_would_have_written_it(tmp_path: Path) -> None:
    inside(
        PREPARE
        + """
from shim import rootfs
(target / "low").unlink()
subprocess.run(["rm", "-r", target / "dir"], check=True)
(target / "dir").mkdir()
(target / "dir/fresh").write_text("fresh")
captured = rootfs.Overlay(merged=target, upper=upper, prefix="trusted.overlay.")
assert rootfs.pack(captured, top / "r.tar") > 0
subprocess.run(["umount", target], check=True)
subprocess.run(["rm", "-rf", upper, snapshots / "30, x/work"], check=True)
upper.mkdir(); (snapshots / "30, x/work").mkdir()
os.chdir(snapshots)
mounts.mount("overlay", str(target), "overlay", 2, options)
os.chdir("/")
layer = overlay.find(str(target))
rootfs_apply.apply(str(top / "r.tar"), str(target))
assert not (target / "low").exists()
assert [p.name for p in (target / "dir").iterdir()] == ["fresh"]
assert os.path.exists(upper / "dir/fresh")
overlay.reset(layer)
assert (target / "dir/inner").read_text() == "inner" and (target / "low").exists()
""",
        tmp_path,
    )


def test_a_relative_layer_that_is_nowhere(tmp_path: Path) -> None:
    found = mounts.parse(
        f"1 0 0:1 / {tmp_path} rw - overlay overlay "
        "rw,lowerdir=no/such:layer,upperdir=/absent/upper,workdir=/absent/work\n"
    )
    with pytest.raises(Unfit, match="no/such"):
        overlay.layer_of(found[0], str(tmp_path))
