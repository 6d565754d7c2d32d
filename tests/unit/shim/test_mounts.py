"""mountinfo and the system calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import mounts

LINES = (
    "22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda rw\n"
    r"30 22 0:30 / /a\040b rw,nosuid,relatime - overlay overlay "
    r"rw,lowerdir=/l\0401:/l2,upperdir=/u\054x,workdir=/w,index=off" + "\n"
    "31 30 0:31 / /a\\040b/c ro master:2 propagate_from:3 - tmpfs none rw\n"
    "not a mount\n"
)


def test_fields_are_decoded() -> None:
    found = mounts.parse(LINES)
    assert [mount.target for mount in found] == ["/", "/a b", "/a b/c"]
    overlay = found[1]
    assert (overlay.type, overlay.source, overlay.id) == ("overlay", "overlay", 30)
    assert overlay.option("lowerdir") == "/l 1:/l2"
    assert overlay.option("upperdir") == "/u,x"
    assert overlay.option("absent") is None
    assert mounts.flags_of(overlay) == 2 | 1 << 21


def test_the_topmost_mount_counts() -> None:
    found = mounts.parse("1 0 0:1 / /m rw - ext4 a rw\n2 1 0:2 / /m rw - tmpfs b rw\n")
    top = mounts.at("/m", found)
    assert top is not None
    assert top.source == "b"
    assert mounts.at("/", found) is None


def test_below_is_strict_and_starts_with_the_last() -> None:
    found = mounts.parse(
        "".join(
            f"{n} 0 0:1 / {p} rw - t s rw\n" for n, p in enumerate(["/m", "/m/a", "/mm", "/m/a/b"])
        )
    )
    assert mounts.below("/m", found) == ["/m/a/b", "/m/a"]


@given(st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name))
def test_every_name_survives_the_kernels_escapes(name: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in name)
    assert os.fsencode(mounts.decode(os.fsdecode(escaped))) == name
    assert os.fsencode(mounts.encode(os.fsdecode(name))) == escaped


def test_those_whose_line_has_a_text() -> None:
    everything = mounts.read()
    root = [mount for mount in everything if mount.target == "/"]
    assert mounts.at("/") == root[-1]
    proc = next(mount for mount in everything if mount.type == "proc")
    assert proc in mounts.read(containing=" - proc")
    assert len(mounts.read(containing=" - proc")) < len(everything)
    assert mounts.below("/proc") == mounts.below("/proc", everything)
    assert mounts.read(containing="no line has this") == []


@given(st.text(max_size=300))
def test_any_text_is_parsed(text: str) -> None:
    assert isinstance(mounts.parse(text.replace("0", "1")), list)


def test_mount_and_unmount_in_a_namespace_of_its_own(tmp_path: Path) -> None:
    code = f"""
import os
from shim import mounts
top = {str(tmp_path)!r}
mounts.mount("none", top, "tmpfs", 2, "size=64k")
os.mkdir(top + "/in")
mounts.mount("none", top + "/in", "tmpfs", 0, "")
mounts.mount("none", top + "/in", "tmpfs", 0, "")
assert mounts.at(top).option("size") == "64k" and "nosuid" in mounts.at(top).flags
mounts.unmount_all_below(top)
assert mounts.below(top) == [] and mounts.at(top) is not None
mounts.unmount(top)
assert mounts.at(top) is None
try:
    mounts.unmount(top)
except OSError as error:
    assert error.filename == top
else:
    raise SystemExit("no error")
"""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    root = Path(__file__).parents[3]
    subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "python3", "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def test_mountinfo_tells_where_a_mount_comes_from() -> None:
    (found,) = mounts.parse("9 1 8:1 /dir\\040x /data rw - ext4 /dev/vda rw\n")
    assert (found.parent, found.device, found.root) == (1, "8:1", "/dir x")
