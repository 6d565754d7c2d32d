from __future__ import annotations

from pathlib import Path

import pytest

from shim import memorylimit

MIB = 1 << 20


def group(folder: Path, version: int, limit: str, used: int, cache: int) -> Path:
    """A control group as the kernel shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\nlast 2\n")
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_what_the_limit_leaves_without_the_cache(tmp_path: Path, version: int) -> None:
    made = group(tmp_path / "c", version, str(100 * MIB), 60 * MIB, 20 * MIB)
    assert memorylimit.left(made, version) == 60 * MIB
    made = group(tmp_path / "c", version, str(100 * MIB), 130 * MIB, 20 * MIB)
    assert memorylimit.left(made, version) == 0


@pytest.mark.parametrize(("version", "none"), [(1, str((1 << 63) - 4096)), (2, "max")])
def test_no_limit(tmp_path: Path, version: int, none: str) -> None:
    assert memorylimit.left(group(tmp_path / "c", version, none, 5, 0), version) is None
    assert memorylimit.left(tmp_path / "absent", version) is None


@pytest.mark.parametrize("version", [1, 2])
def test_the_pods_limit_counts_as_well(tmp_path: Path, version: int) -> None:
    group(tmp_path / "pod", version, str(50 * MIB), 40 * MIB, 0)
    made = group(tmp_path / "pod/c", version, str(100 * MIB), 30 * MIB, 0)
    assert memorylimit.left(made, version) == 10 * MIB
    group(tmp_path / "pod", version, str(500 * MIB), 40 * MIB, 0)
    assert memorylimit.left(made, version) == 70 * MIB
