from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cri.__main__ import main
from cri.store import Store
from tests.unit.cri.store.making import publish

Podthaw = Callable[..., tuple[int, str, str]]


@pytest.fixture
def podthaw(
    node_config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Podthaw:
    """Run ``podthaw`` with these arguments; returns exit status, stdout and stderr."""
    monkeypatch.setenv("PODTHAW_CONFIG", str(node_config))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(arguments)
        except SystemExit as exited:
            status = int(exited.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store that the configuration names."""
    store = Store(tmp_path / "store", node="node-1")
    store.create()
    return store


@pytest.fixture
def web(store: Store) -> str:
    """The digest of a snapshot with the name shop/web."""
    digest = publish(store, "web")
    store.set_name("shop", "web", digest)
    return digest
