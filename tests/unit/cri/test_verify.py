from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cri import manifesting
from cri.verify import Verifier
from shim import snapshot
from shim.errors import Broken, Unfit
from shim.snapshot import Manifest
from tests.unit.cri import snapshots

BIG = "images/pages-1.img"


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, str, Manifest]:
    folder = tmp_path / "snapshot"
    data, manifest = snapshots.write(folder)
    return folder, snapshot.digest(data), manifest


def test_everything_is_read_once_and_then_only_what_is_small(
    tmp_path: Path, one: tuple[Path, str, Manifest]
) -> None:
    manifest = one[2]
    first = Verifier(tmp_path).check(*one)
    again = Verifier(tmp_path).check(*one)
    assert first == manifest.size
    assert again == manifest.size - 300_000


def test_a_file_that_was_written_again_is_read_again(
    tmp_path: Path, one: tuple[Path, str, Manifest]
) -> None:
    verifier = Verifier(tmp_path)
    verifier.check(*one)
    path = one[0] / BIG
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[4096] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Broken, match=rf"{BIG} was altered: wanted sha256:\w+, found sha256:"):
        verifier.check(*one)


def test_a_file_that_was_replaced_is_read_again_and_may_be_good(
    tmp_path: Path, one: tuple[Path, str, Manifest]
) -> None:
    verifier = Verifier(tmp_path)
    verifier.check(*one)
    path = one[0] / BIG
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert verifier.check(*one) == one[2].size


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        (BIG, b"", "was truncated or altered: wanted 300000 bytes, found 0"),
        (BIG, b"\1" * 300_000, "was altered"),
        ("images/utsns-9.img", None, "is missing"),
        ("images/extra.img", b"x", "is not in the manifest"),
    ],
)
def test_a_difference_is_broken(
    tmp_path: Path,
    one: tuple[Path, str, Manifest],
    path: str,
    data: bytes | None,
    message: str,
) -> None:
    target = one[0] / path
    if data is None:
        target.unlink()
    else:
        target.write_bytes(data)
    with pytest.raises(Broken, match=message):
        Verifier(tmp_path).check(*one)


def test_a_small_image_is_read_each_time(tmp_path: Path, one: tuple[Path, str, Manifest]) -> None:
    verifier = Verifier(tmp_path)
    verifier.check(*one)
    path = one[0] / "rootfs.tar"
    path.write_bytes(b"TAR")
    with pytest.raises(Broken, match=r"rootfs\.tar was altered"):
        verifier.check(*one)


def test_what_was_just_written_can_be_taken_as_verified(
    tmp_path: Path, one: tuple[Path, str, Manifest]
) -> None:
    verifier = Verifier(tmp_path)
    verifier.remember(*one)
    assert verifier.check(*one) == one[2].size - 300_000
    verifier.forget(one[1])
    assert verifier.check(*one) == one[2].size


@pytest.mark.parametrize("stamps", ["", "[]", '{"images/pages-1.img": null}'])
def test_stamps_that_cannot_be_understood_do_not_count(
    tmp_path: Path, one: tuple[Path, str, Manifest], stamps: str
) -> None:
    verifier = Verifier(tmp_path)
    verifier.check(*one)
    (tmp_path / "node" / "verified" / f"{one[1][7:]}.json").write_text(stamps)
    assert verifier.check(*one) == one[2].size


def test_a_node_that_cannot_remember_verifies_each_time(
    tmp_path: Path, one: tuple[Path, str, Manifest]
) -> None:
    (tmp_path / "node").write_text("in the way")
    verifier = Verifier(tmp_path)
    assert verifier.check(*one) == verifier.check(*one) == one[2].size


def test_a_file_that_is_a_link_is_broken_or_unfit_and_not_followed(
    tmp_path: Path, one: tuple[Path, str, Manifest]
) -> None:
    target = one[0] / "rootfs.tar"
    target.rename(tmp_path / "aside")
    target.symlink_to(tmp_path / "aside")
    with pytest.raises((Broken, Unfit)):
        Verifier(tmp_path).check(*one)


def test_mapped_memory_is_read_once_and_then_only_its_list(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    data = b"\1" * 300_000
    chunk = data[: 73 * 4096]
    sums = f"8192 {len(chunk)} {hashlib.sha256(chunk).hexdigest()}\n".encode()
    files = snapshots.default_files() | {"pages.sums": sums, "memory.json": b"{}", "pages": b""}
    _, manifest = snapshots.write(folder, files, memory="mapped")
    with (folder / "pages").open("wb") as file:
        file.truncate(1 << 30)
        os.pwrite(file.fileno(), chunk, 8192)
    artifacts = manifesting.hash_files(folder)
    manifest = replace(manifest, artifacts=artifacts)
    one = (folder, "sha256:" + "5" * 64, manifest)
    assert Verifier(tmp_path).check(*one) == manifest.size
    assert Verifier(tmp_path).check(*one) == manifest.size - 300_000 - len(chunk)
    with (folder / "pages").open("r+b") as file:
        os.pwrite(file.fileno(), b"x", 1 << 29)
    with pytest.raises(Broken, match="it has data after 536870912"):
        Verifier(tmp_path).check(*one)
    os.truncate(folder / "pages", 4096)
    with pytest.raises(Broken, match="pages was truncated"):
        Verifier(tmp_path).check(*one)
