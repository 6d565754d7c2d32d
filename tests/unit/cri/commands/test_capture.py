from __future__ import annotations

from pathlib import Path

import pytest

from cri.commands import capture as command
from cri.store import Store
from cri.verify import Verifier
from tests.unit.cri.commands.conftest import Podthaw
from tests.unit.cri.store.making import FILES, publish


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "NAMESPACE/POD"),
        (("shop/web",), "--name (or --check)"),
        (("shop/web", "--container-id", "x", "--name", "n"), "NAMESPACE/POD"),
        (("shop/web", "--name", "n", "--timeout", "soon"), "timeout"),
        (("shop/web", "--name", "n", "--timeout", "0s"), "timeout"),
        (("--container-id", "x", "--export", "/x.tar", "--stop"), "neither --name nor --stop"),
    ],
)
def test_usage(podthaw: Podthaw, arguments: tuple[str, ...], words: str) -> None:
    status, _, errors = podthaw("capture", *arguments)
    assert status == 2
    assert words in errors


@pytest.mark.parametrize("name", ["../x", "a/b", "", "UPPER", "a" * 200])
def test_bad_names_are_told_before_containerd_is_asked(podthaw: Podthaw, name: str) -> None:
    status, _, errors = podthaw("capture", "shop/web", "--name", name)
    assert status in (1, 2)
    assert "name" in errors


@pytest.mark.parametrize("pod", ["web", "a/b/c", "UPPER/web", "/web", "shop/"])
def test_bad_pods(podthaw: Podthaw, pod: str) -> None:
    status, _, errors = podthaw("capture", pod, "--name", "n")
    assert status == 1
    assert "podthaw: " in errors


def test_containerd_is_not_there(podthaw: Podthaw, node_config: Path, tmp_path: Path) -> None:
    text = node_config.read_text() + f'containerd = "{tmp_path}/absent.sock"\n'
    node_config.write_text(text)
    status, _, errors = podthaw("capture", "shop/web", "--name", "n")
    assert status == 1
    assert "containerd cannot be reached" in errors
    assert not (tmp_path / "store").exists()


def test_what_answers_is_not_containerd(
    podthaw: Podthaw, node_config: Path, tmp_path: Path
) -> None:
    (tmp_path / "file.sock").write_text("a file")
    node_config.write_text(node_config.read_text() + f'containerd = "{tmp_path}/file.sock"\n')
    status, _, errors = podthaw("capture", "shop/web", "--check")
    assert status == 1
    assert "containerd cannot be reached" in errors


def test_what_was_just_captured_is_not_hashed_again(tmp_path: Path, store: Store) -> None:
    digest = publish(store, files={**FILES, "images/pages-1.img": b"\1" * 300_000})
    one = (store.folder(digest), digest, store.manifest(digest))
    assert Verifier(tmp_path / "other").check(*one) > 300_000
    command._remember(store, digest, tmp_path / "state")
    assert Verifier(tmp_path / "state").check(*one) < 100
    command._remember(store, "sha256:" + "0" * 64, tmp_path / "state")  # gone already: no matter
