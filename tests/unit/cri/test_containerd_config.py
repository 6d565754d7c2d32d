from __future__ import annotations

import re
from pathlib import Path

import pytest

from cri.containerd_config import load, merge
from shim.errors import Refused


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_imports_are_read_in_containerds_order_and_once(tmp_path: Path) -> None:
    main = write(tmp_path / "config.toml", 'imports = ["d/*.toml", "last.toml"]\nroot = "/main"\n')
    write(tmp_path / "d/2.toml", 'root = "/two"\n')
    write(tmp_path / "d/1.toml", 'imports = ["../deep.toml", "../config.toml"]\nroot = "/one"\n')
    write(tmp_path / "deep.toml", 'root = "/deep"\n')
    write(tmp_path / "last.toml", f'state = "/last"\nimports = ["{tmp_path}/d/1.toml"]\n')
    found = load(main)
    names = [source.path.name for source in found.sources]
    assert names == ["config.toml", "1.toml", "2.toml", "last.toml", "deep.toml"]
    assert (found.root, found.state) == (Path("/deep"), Path("/last"))


def test_a_pattern_may_match_nothing_but_a_name_must_be_there(tmp_path: Path) -> None:
    assert load(write(tmp_path / "a.toml", 'imports = ["none/*.toml"]\n')).sources
    with pytest.raises(Refused, match=r"missing\.toml: cannot be read: No such file"):
        load(write(tmp_path / "b.toml", 'imports = ["missing.toml"]\n'))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"a = = 1", "is not valid TOML: .*line 1"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"imports = 5", "imports: wanted a list of paths, found 5"),
        (b'[grpc]\naddress = ["x"]', r"grpc.address: wanted a text, found \['x'\]"),
        (b"root = 1", "root: wanted a text, found 1"),
        (b"grpc = 1", "grpc.address|grpc"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: bytes, what: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text)
    with pytest.raises(Refused) as refused:
        load(path)
    told = f"{refused.value}\n{refused.value.detail}"
    assert str(path) in told
    assert re.search(what, told)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="Is a directory"):
        load(tmp_path)


def test_tables_merge_values_replace_lists_add() -> None:
    into = {"list": ["a"], "t": {"x": {"k": 1, "l": [1]}, "y": 2}, "v": 1}
    later = {"list": ["a", "b"], "t": {"x": {"k": 2, "l": [2]}, "z": 3}, "v": 2}
    merge(into, later, top=True)
    assert into == {
        "list": ["a", "b"],
        "t": {"x": {"k": 2, "l": [2]}, "y": 2, "z": 3},
        "v": 2,
    }
    assert later["t"] == {"x": {"k": 2, "l": [2]}, "z": 3}


@pytest.mark.parametrize(
    ("text", "address", "limit"),
    [
        ("", "/run/containerd/containerd.sock", 16 << 20),
        ('[grpc]\naddress = "/g"\nmax_recv_message_size = 5', "/g", 5),
        (
            """\
version = 4
[plugins."io.containerd.server.v1.grpc"]
address = "/p"
max_recv_message_size = 6
""",
            "/p",
            6,
        ),
    ],
)
def test_the_socket_of_every_version(tmp_path: Path, text: str, address: str, limit: int) -> None:
    found = load(write(tmp_path / "c.toml", text))
    assert (found.address, found.max_message) == (address, limit)


@pytest.mark.parametrize("plugin", ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"])
def test_runtimes_of_every_version(tmp_path: Path, plugin: str) -> None:
    table = f'plugins."{plugin}".containerd.runtimes'
    text = (
        f'[{table}.runc]\nruntime_type = "t"\n'
        f'[{table}.podthaw]\ncontainer_annotations = ["podthaw.dev/*"]\n'
        f'[{table}.podthaw.options]\nBinaryName = "/b"\n'
    )
    found = load(write(tmp_path / "c.toml", text)).runtimes
    assert set(found) == {"runc", "podthaw"}
    assert (found["runc"].type, found["runc"].binary) == ("t", "")
    assert found["podthaw"].binary == "/b"
    assert found["podthaw"].container_annotations == ("podthaw.dev/*",)
