from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cri.store import Store
from shim import snapshot
from shim.errors import Broken, Refused, Unfit
from tests.unit.cri.store.making import FILES, manifest, publish, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", node="node-1")


def opened(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def temporary(store: Store) -> list[str]:
    return [one.name for one in (store.root / "tmp").iterdir()]


def test_a_published_snapshot_is_whole_and_private(store: Store) -> None:
    digest = publish(store, "a")
    folder = store.folder(digest)
    assert folder == store.root / "snapshots" / digest.removeprefix("sha256:")
    assert snapshot.read(folder, digest).source.pod == "web-0"
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert (folder / "images/pages-1.img").read_bytes() == FILES["images/pages-1.img"]
    assert temporary(store) == []


def test_staging_is_private_and_goes_when_nothing_is_published(store: Store) -> None:
    with store.stage() as stage:
        assert stage.stat().st_mode & 0o777 == 0o700
        assert stage.parent == store.root / "tmp"
        assert stage.name.startswith(f"node-1.{os.getpid()}.")
        (stage / "images").mkdir()
        (stage / "images/x").write_text("x")
    assert temporary(store) == []


def test_staging_goes_when_the_block_fails(store: Store) -> None:
    def dump() -> None:
        with store.stage() as stage:
            (stage / "x").write_text("x")
            raise RuntimeError("dump failed")

    with pytest.raises(RuntimeError, match="dump failed"):
        dump()
    assert temporary(store) == []
    assert store.snapshots() == []


def test_the_same_snapshot_twice_is_success(store: Store) -> None:
    first = publish(store, "a")
    inode = store.folder(first).stat().st_ino
    assert publish(store, "a") == first
    assert store.folder(first).stat().st_ino == inode
    assert temporary(store) == []


def test_publishing_again_repairs_a_damaged_snapshot(store: Store) -> None:
    digest = publish(store, "a")
    (store.folder(digest) / "images/pages-1.img").write_bytes(b"short")
    assert publish(store, "a") == digest
    assert (store.folder(digest) / "images/pages-1.img").read_bytes() == b"\1" * 5000
    assert len(store.snapshots()) == 1


def test_many_publish_the_same_and_others_at_once(store: Store) -> None:
    nodes = [Store(store.root, node=f"node-{number}") for number in range(8)]

    def work(number: int) -> list[str]:
        return [publish(nodes[number], str(seed)) for seed in range(6)]

    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(work, range(8)))
    assert all(one == digests[0] for one in digests)
    assert {one.digest for one in store.snapshots()} == set(digests[0])
    assert all(one.problem == "" for one in store.snapshots())
    assert temporary(store) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("missing", "rootfs.tar is missing"),
        ("extra", "images/extra is not in the manifest"),
        ("short", "images/inventory.img was truncated or altered: wanted 9 bytes, found 2"),
        ("link", "images/link is not a regular file"),
        ("fifo", "images/fifo is not a regular file"),
    ],
)
def test_a_folder_that_differs_from_its_manifest_is_not_published(
    store: Store, change: str, sentence: str
) -> None:
    with store.stage() as stage:
        write(stage, FILES)
        if change == "missing":
            (stage / "rootfs.tar").unlink()
        elif change == "extra":
            (stage / "images/extra").write_text("")
        elif change == "short":
            (stage / "images/inventory.img").write_text("no")
        elif change == "link":
            (stage / "images/link").symlink_to("/etc/passwd")
        else:
            os.mkfifo(stage / "images/fifo")
        with pytest.raises(Broken, match=sentence):
            store.publish(stage, manifest(FILES))
    assert store.snapshots() == []
    assert temporary(store) == []


def test_a_folder_from_elsewhere_is_not_published(store: Store, tmp_path: Path) -> None:
    store.create()
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, FILES)
    with pytest.raises(Broken, match="is not a staged folder of the store"):
        store.publish(elsewhere, manifest(FILES))


def test_what_is_no_manifest_is_not_published(store: Store) -> None:
    with pytest.raises(Broken, match="manifest cannot be read"), store.stage() as stage:
        store.publish(stage, b"not json")


def test_a_link_in_the_place_of_the_snapshot_is_refused(store: Store, tmp_path: Path) -> None:
    digest = snapshot.digest(manifest({**FILES, "images/seed.img": b"a"}))
    store.create()
    (tmp_path / "outside").mkdir()
    (store.root / "snapshots" / digest[7:]).symlink_to(tmp_path / "outside")
    with pytest.raises(Refused, match="cannot take a new snapshot: a symbolic link"):
        publish(store, "a")
    assert list((tmp_path / "outside").iterdir()) == []


def test_everything_is_on_disk_before_the_rename(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noting_fsync(fd: int) -> None:
        events.append(opened(fd))
        fsync(fd)

    def noting_rename(*args: object, **kwargs: object) -> None:
        events.append("rename")
        rename(*args, **kwargs)  # type: ignore[arg-type]

    with store.stage() as stage:
        write(stage, FILES)
        monkeypatch.setattr(os, "fsync", noting_fsync)
        monkeypatch.setattr(os, "rename", noting_rename)
        store.publish(stage, manifest(FILES))
        monkeypatch.undo()
    at = events.index("rename")
    assert {str(stage / path) for path in [*FILES, "manifest.json", "images"]} <= set(events[:at])
    assert events[at - 1] == str(stage)
    assert events[at + 1 :] == [str(store.root / "snapshots")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["mkdir", "write", "fsync", "rename"])
def test_a_full_disk_at_any_step_is_a_sentence_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    store.create()

    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, full)

    def capture() -> None:
        with store.stage() as stage:
            store.publish(stage, manifest({}))

    with pytest.raises(Unfit, match="is full and cannot take a new snapshot: make room"):
        capture()
    monkeypatch.undo()
    assert store.snapshots() == []
    assert temporary(store) == []


def test_a_rename_whose_answer_was_lost_is_success(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def lossy(*args: object, **kwargs: object) -> None:
        rename(*args, **kwargs)  # type: ignore[arg-type]
        raise FileNotFoundError(errno.ENOENT, "repeated on the network")

    with store.stage() as stage:
        write(stage, FILES)
        monkeypatch.setattr(os, "rename", lossy)
        digest = store.publish(stage, manifest(FILES))
        monkeypatch.undo()
    assert store.get(digest) is not None


def test_a_sync_that_fails_after_the_rename_is_no_success(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def failing(fd: int) -> None:
        if opened(fd).endswith("/snapshots"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(Unfit, match="cannot take a new snapshot: input/output error"):
        publish(store, "a")


def test_a_disk_that_is_full_while_a_snapshot_is_built_is_a_sentence(store: Store) -> None:
    def capture(number: int) -> None:
        with store.stage():
            raise OSError(number, os.strerror(number))

    with pytest.raises(Unfit, match="is full and cannot take a new snapshot"):
        capture(errno.ENOSPC)
    with pytest.raises(OSError, match="Input/output error"):
        capture(errno.EIO)
    assert temporary(store) == []
