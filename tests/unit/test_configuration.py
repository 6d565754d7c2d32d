"""docs/configuration.md has every key and every annotation, with the default that counts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from cri import annotations
from cri.config import KEYS, effective, load_settings
from cri.store import files

PAGE = (Path(__file__).resolve().parents[2] / "docs/configuration.md").read_text()


def documented() -> dict[str, str]:
    return dict(re.findall(r"^\| `([a-z_]+)` \| (.+?) \| ", PAGE, re.MULTILINE))


def test_every_key_is_there_and_no_other() -> None:
    assert set(documented()) == set(KEYS)


@pytest.mark.parametrize("key", [key for key in KEYS if key != "containerd"])
def test_the_default_is_the_real_one(key: str, tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("version = 3\n")
    (tmp_path / "given.toml").write_text(
        f'version = 3\n[plugins."dev.podthaw.v1"]\n{key} = {documented()[key].strip("`")}\n'
    )
    default = effective(load_settings(tmp_path / "empty.toml"))[key]
    assert effective(load_settings(tmp_path / "given.toml"))[key] == default


@pytest.mark.parametrize("key", annotations._KEYS)
def test_every_annotation_is_there(key: str) -> None:
    assert key in PAGE or f"`{key.removeprefix(annotations.PREFIX)}`" in PAGE


@pytest.mark.parametrize("folder", files.FOLDERS)
def test_every_folder_of_the_store_is_there(folder: str) -> None:
    assert f"| `{folder}/" in PAGE


def test_the_examples_are_good(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 2
    for number, example in enumerate(examples):
        assert "plugins" in tomllib.loads(example)
        path = tmp_path / f"{number}.toml"
        path.write_text("version = 3\n" + example)
        load_settings(path)
