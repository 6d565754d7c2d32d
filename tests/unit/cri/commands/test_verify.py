from __future__ import annotations

from cri.commands.verify import Progress
from cri.store import Store
from tests.unit.cri.commands.conftest import Podthaw


def test_whole(podthaw: Podthaw, web: str) -> None:
    assert podthaw("verify", "shop/web") == (0, f"{web} is whole: 4 files, 4.9 KiB\n", "")


def test_one_difference(podthaw: Podthaw, store: Store, web: str) -> None:
    (store.folder(web) / "images/pages-1.img").write_bytes(b"\2" * 5000)
    status, out, err = podthaw("verify", "shop/web")
    assert (status, out) == (1, "")
    assert err.startswith(
        f"podthaw: the snapshot {web} is damaged: images/pages-1.img was altered: wanted sha256:"
    )
    assert err.count("\n") == 1


def test_several_differences(podthaw: Podthaw, store: Store, web: str) -> None:
    (store.folder(web) / "rootfs.tar").unlink()
    (store.folder(web) / "more").touch()
    sentence = (
        f"podthaw: the snapshot {web} is damaged: more is not in the manifest (and 1 more)\n"
        "  more is not in the manifest\n"
        "  rootfs.tar is missing\n"
    )
    assert podthaw("verify", "shop/web") == (1, "", sentence)


def test_an_altered_manifest(podthaw: Podthaw, store: Store, web: str) -> None:
    with (store.folder(web) / "manifest.json").open("a") as file:
        file.write(" ")
    status, out, err = podthaw("verify", "shop/web")
    assert (status, out) == (1, "")
    assert err.startswith(f"podthaw: the snapshot's manifest was altered: wanted {web}, found ")


def test_progress_is_for_a_terminal() -> None:
    shown: list[str] = []
    progress = Progress(3 << 30, shown.append)
    progress.read(1 << 29)
    progress.read(1 << 29)
    progress.read(2 << 30)
    progress.end()
    assert shown == ["\r1.0 GiB of 3.0 GiB", "\r3.0 GiB of 3.0 GiB", "\n"]
    silent = Progress(3 << 30, None)
    silent.read(3 << 30)
    silent.end()
