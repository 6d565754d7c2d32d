from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cri import manifesting
from cri.store import artifacts
from shim import snapshot
from shim.errors import Broken, Unfit
from shim.snapshot import Manifest
from tests.unit.cri.store.making import FILES, manifest, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "s", FILES)
    return tmp_path / "s"


@pytest.fixture
def content() -> Manifest:
    return snapshot.decode(manifest(FILES))


def test_whole(folder: Path, content: Manifest) -> None:
    read: list[int] = []
    assert artifacts.check_listing(folder, content) == []
    assert artifacts.verify(folder, content, read.append) == []
    assert sum(read) == content.size == 5009
    artifacts.require([], "sha256:x")


def test_same_size_other_bytes_is_found_by_verify_alone(folder: Path, content: Manifest) -> None:
    (folder / "images/pages-1.img").write_bytes(b"\1" * 4999 + b"\2")
    assert artifacts.check_listing(folder, content) == []
    (problem,) = artifacts.verify(folder, content)
    wanted = {one.path: one.sha256 for one in content.artifacts}["images/pages-1.img"]
    assert problem.startswith(f"images/pages-1.img was altered: wanted sha256:{wanted}, found ")


def test_each_difference_is_told_once(folder: Path, content: Manifest) -> None:
    (folder / "rootfs.tar").unlink()
    (folder / "images/inventory.img").write_bytes(b"")
    (folder / "more").write_text("x")
    assert artifacts.verify(folder, content) == [
        "images/inventory.img was truncated or altered: wanted 9 bytes, found 0",
        "more is not in the manifest",
        "rootfs.tar is missing",
    ]


def test_a_link_is_not_read(folder: Path, content: Manifest, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"inventory")
    (folder / "images/inventory.img").unlink()
    (folder / "images/inventory.img").symlink_to(outside)
    assert artifacts.verify(folder, content) == ["images/inventory.img is not a regular file"]
    artifact = next(one for one in content.artifacts if one.path == "images/inventory.img")
    with pytest.raises(OSError, match="Too many levels"):
        artifacts.difference(folder, artifact)


def test_a_linked_folder_is_not_read(folder: Path, content: Manifest, tmp_path: Path) -> None:
    (folder / "images").rename(tmp_path / "outside")
    (folder / "images").symlink_to(tmp_path / "outside")
    problems = artifacts.verify(folder, content)
    assert "images is not a regular file" in problems
    assert "images/inventory.img is missing" in problems
    artifact = next(one for one in content.artifacts if one.path == "images/inventory.img")
    with pytest.raises(OSError, match="Not a directory"):
        artifacts.difference(folder, artifact)


def test_require_tells_the_first_and_keeps_all() -> None:
    with pytest.raises(
        Broken, match=r"^the snapshot sha256:x is damaged: a is missing \(and 1 more\)$"
    ) as caught:
        artifacts.require(["a is missing", "b is missing"], "sha256:x")
    assert caught.value.detail == "a is missing\nb is missing"


def test_disk_usage_counts_holes_and_links_once(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert artifacts.disk_usage(tmp_path) < 1 << 20
    before = artifacts.disk_usage(tmp_path)
    (tmp_path / "data").write_bytes(b"x" * 100_000)
    with (tmp_path / "data").open("rb") as file:
        os.fsync(file.fileno())
    once = artifacts.disk_usage(tmp_path)
    assert once >= before + 100_000
    (tmp_path / "again").hardlink_to(tmp_path / "data")
    assert artifacts.disk_usage(tmp_path) == once


def test_a_folder_that_is_gone_is_a_difference(tmp_path: Path, content: Manifest) -> None:
    assert artifacts.check_listing(tmp_path / "none", content) == [
        "the snapshot's folder is not there any more"
    ]


def test_a_file_system_that_fails_is_no_damage(
    folder: Path, content: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ill(_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "scandir", ill)
    with pytest.raises(Unfit, match="the snapshot's folder cannot be read: Stale file handle"):
        artifacts.check_listing(folder, content)


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[Path, Manifest]:
    """A snapshot with mapped memory: 4 MiB, of which 64 KiB are stored."""
    folder = tmp_path / "mapped"
    write(folder, FILES)
    (folder / "memory.json").write_text("{}")
    with (folder / "pages").open("wb") as file:
        file.truncate(4 << 20)
        os.pwrite(file.fileno(), b"\1" * 65536, 1 << 20)
    digest = hashlib.sha256(b"\1" * 65536).hexdigest()
    (folder / "pages.sums").write_text(f"{1 << 20} 65536 {digest}\n")
    found = manifesting.hash_files(folder)
    return folder, replace(snapshot.decode(manifest(FILES)), artifacts=found, memory="mapped")


def test_mapped_memory_is_whole(mapped: tuple[Path, Manifest]) -> None:
    folder, content = mapped
    assert snapshot.decode(snapshot.encode(content)) == content
    read: list[int] = []
    assert artifacts.verify(folder, content, read.append) == []
    assert sum(read) == content.size < 200_000


def alter(folder: Path) -> None:
    with (folder / "pages").open("r+b") as file:
        os.pwrite(file.fileno(), b"\2", (1 << 20) + 1000)


def add(folder: Path) -> None:
    with (folder / "pages").open("r+b") as file:
        os.pwrite(file.fileno(), b"\2", 3 << 20)


def truncate(folder: Path) -> None:
    os.truncate(folder / "pages", 2 << 20)


def swap(folder: Path) -> None:
    """Other memory with a list of its own digests."""
    alter(folder)
    with (folder / "pages").open("rb") as file:
        digest = hashlib.sha256(os.pread(file.fileno(), 65536, 1 << 20)).hexdigest()
    (folder / "pages.sums").write_text(f"{1 << 20} 65536 {digest}\n")


def swap_short(folder: Path) -> None:
    (folder / "pages.sums").write_text("")


@pytest.mark.parametrize(
    ("attack", "sentences"),
    [
        (alter, [r"pages was altered between 1048576 and 1114112: wanted sha256:"]),
        (add, [r"pages was altered: it has data after 3145728, where pages\.sums has none"]),
        (truncate, [r"pages was truncated or altered: wanted 4194304 bytes, found 2097152"]),
        (swap, [r"pages\.sums was altered: wanted sha256:"]),
        (swap_short, [r"pages\.sums was truncated or altered", r"pages\.sums was altered: wanted"]),
    ],
)
def test_mapped_memory_that_was_altered(
    mapped: tuple[Path, Manifest], attack: Callable[[Path], None], sentences: list[str]
) -> None:
    folder, content = mapped
    attack(folder)
    problems = sorted(artifacts.verify(folder, content))
    assert len(problems) == len(sentences), problems
    for sentence in sentences:
        assert any(re.match(sentence, problem) for problem in problems), problems


def test_a_list_of_digests_that_is_a_link_is_not_read(mapped: tuple[Path, Manifest]) -> None:
    folder, content = mapped
    (folder / "pages.sums").rename(folder / "elsewhere")
    (folder / "pages.sums").symlink_to("elsewhere")
    pages = content.artifact("pages")
    assert pages is not None
    with pytest.raises(OSError, match="Too many levels"):
        artifacts.difference(folder, pages)
