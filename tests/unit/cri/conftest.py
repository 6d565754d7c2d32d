from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def node_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file whose store, state and run-time folders lie in the test's own."""
    monkeypatch.setenv("PODTHAW_RUN", f"{tmp_path}/run")
    path = tmp_path / "config.toml"
    path.write_text(
        "version = 3\n"
        '[plugins."dev.podthaw.v1"]\n'
        f'state = "{tmp_path}/state"\n'
        f'store = "{tmp_path}/store"\n'
    )
    return path
