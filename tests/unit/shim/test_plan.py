from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim import plan
from shim.errors import Refused
from shim.plan import Plan, Result

ID = "0123456789abcdef" * 2
ME = os.geteuid()

ORDER = Plan(
    id=ID, created=1.5, namespace="n", pod="p", pod_uid="u", sandbox_id="s", container="c",
    attempt=0, name="web", snapshot="sha256:" + "1" * 64, snapshot_dir="/store/1", images="/i",
    rootfs_diff="/store/1/rootfs.tar", pages_mount={"source": "/store/1/pages",
    "destination": "/.podthaw-pages"}, tcp="established", on_failure="fail", own_ipc=True,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(plan.write(ORDER, tmp_path))


def read(run: Path) -> Plan:
    return plan.read(ID, run, owner=ME)


def test_what_is_written_is_read(tmp_path: Path, folder: Path) -> None:
    assert read(tmp_path) == ORDER
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
    assert (folder / "plan.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../etc", "0" * 31, "0" * 33, "G" * 32, f"{ID}\n", f"{ID}/", "٣" * 32],
)
def test_a_name_that_is_no_plans(tmp_path: Path, name: str) -> None:
    for use in (plan.plan_dir, plan.read, plan.claim):
        with pytest.raises(Refused, match="32 hexadecimal digits"):
            use(name, tmp_path)


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no plan"):
        read(tmp_path)


def _symlink(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


def _linked_file(folder: Path) -> None:
    (folder / "plan.json").rename(folder / "other")
    (folder / "plan.json").symlink_to("other")


def _fifo(folder: Path) -> None:
    (folder / "plan.json").unlink()
    os.mkfifo(folder / "plan.json", 0o600)


def _fifo_for_a_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    os.mkfifo(folder, 0o600)


def _directory(folder: Path) -> None:
    (folder / "plan.json").unlink()
    (folder / "plan.json").mkdir(mode=0o700)


def _huge(folder: Path) -> None:
    os.truncate(folder / "plan.json", 1 << 40)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "the folder is a symbolic link": (_symlink, "symbolic link"),
    "the file is a symbolic link": (_linked_file, "symbolic link"),
    "the file is a pipe, which must not be waited for": (_fifo, "not a regular file"),
    "the folder is a pipe": (_fifo_for_a_folder, "not a directory"),
    "the file is a folder": (_directory, "not a regular file"),
    "the file has another name": (lambda f: os.link(f / "plan.json", f / "x"), "2 names"),
    "the file is huge": (_huge, "at most 1048576 bytes"),
    "others may read the folder": (lambda f: f.chmod(0o750), "mode 0750"),
    "others may read the file": (lambda f: (f / "plan.json").chmod(0o604), "mode 0604"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_the_daemon_would_not_have_made(tmp_path: Path, folder: Path, case: str) -> None:
    make, words = HOSTILE[case]
    make(folder)
    with pytest.raises(Refused, match=words):
        read(tmp_path)


def test_a_plan_of_somebody_else(tmp_path: Path, folder: Path) -> None:
    assert folder.exists()
    with pytest.raises(Refused, match=f"belongs to user {ME} .* user {ME + 1} alone"):
        plan.read(ID, tmp_path, owner=ME + 1)


def altered(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**raw, **changes}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 5), ("id", "f" * 32), ("id", None), ("format", 2), ("format", "1"),
        ("created", "now"), ("attempt", 1.5), ("attempt", True), ("name", ["x"]),
        ("snapshot_dir", "relative"), ("images", None), ("rootfs_diff", 5), ("shm", "../x"),
        ("tcp", "keep"), ("tcp", ["close"]), ("on_failure", "explode"), ("restore_timeout", "60s"),
        ("pages_mount", "/x"), ("pages_mount", {}), ("pages_mount", {"source": "/store/1/pages"}),
        ("pages_mount", {"source": "/store/1/pages", "destination": "/etc"}),
        ("pages_mount", {"source": "pages", "destination": "/.podthaw-pages"}),
        ("pages_mount", {"source": 5, "destination": "/.podthaw-pages"}),
        ("own_ipc", 1), ("gpu_map", []), ("runtime", {}), ("surprise", 1),
    ],
)  # fmt: skip
def test_a_field_of_another_kind(tmp_path: Path, folder: Path, field: str, value: object) -> None:
    altered(folder, **{field: value})
    with pytest.raises(Refused, match=f"the plan {ID}"):
        read(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"5", b"null", b'"x"', b"{}", b"\xff", b'{"format": 1}', b"[" * 100_000],
)
def test_what_is_no_plan(tmp_path: Path, folder: Path, data: bytes) -> None:
    (folder / "plan.json").write_bytes(data)
    with pytest.raises(Refused, match=f"the plan {ID}"):
        read(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(asdict(ORDER))), JSON)
def test_whatever_stands_in_a_field_it_is_read_or_refused(
    tmp_path: Path, field: str, value: object
) -> None:
    folder = Path(plan.write(ORDER, tmp_path))
    altered(folder, **{field: value})
    try:
        found = read(tmp_path)
    except Refused:
        return
    assert found == replace(ORDER, **{field: value})  # type: ignore[arg-type]


def test_a_plan_serves_once(tmp_path: Path, folder: Path) -> None:
    plan.claim(ID, tmp_path)
    assert (folder / "claimed").stat().st_size == 0
    with pytest.raises(Refused, match="serves once"):
        plan.claim(ID, tmp_path)


@pytest.mark.parametrize("target", ["/etc/passwd", "/nowhere/at/all"])
def test_a_link_in_the_marks_place_is_a_used_plan(
    tmp_path: Path, folder: Path, target: str
) -> None:
    (folder / "claimed").symlink_to(target)
    with pytest.raises(Refused, match="serves once"):
        plan.claim(ID, tmp_path)


def test_the_answer(tmp_path: Path, folder: Path) -> None:
    assert plan.read_result(ID, tmp_path) is None
    answer = Result(outcome="cold", container_id="c", reason="why", kind="unfit", phases={"a": 1.0})
    plan.write_result(ID, answer, tmp_path)
    assert plan.read_result(ID, tmp_path) == answer
    for data in (b"", b"[]", b'{"outcome": "cold"}', b'{"x": 1}', b"[" * 100_000):
        (folder / "result.json").write_bytes(data)
        assert plan.read_result(ID, tmp_path) is None
