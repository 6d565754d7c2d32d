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


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("[" + ".".join(["a"] * 3000) + "]", "nested too deeply"),
        ("a = " + "{a = " * 3000 + "1" + "}" * 3000, "nested too deeply"),
        ('imports = ["a\\u0000b"]', "imports: wanted a list of paths"),
        (
            '[plugins."io.containerd.server.v1.grpc"]\naddress = 5',
            "address: wanted a text, found 5",
        ),
        (
            '[plugins."io.containerd.server.v1.grpc"]\nmax_recv_message_size = true',
            "max_recv_message_size: wanted a whole number",
        ),
    ],
    ids=["lists", "tables", "inline tables", "zero byte", "address", "limit"],
)
def test_what_no_one_writes_by_hand(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(Refused, match=what):
        load(write(tmp_path / "c.toml", text))
    with pytest.raises(Refused, match="cannot be read"):
        load(Path("a\0b"))


def test_stars_do_not_reach_into_folders(tmp_path: Path) -> None:
    """The patterns of containerd know no ``**``."""
    write(tmp_path / "one/a.toml", "a = 1")
    write(tmp_path / "one/two/b.toml", "b = 1")
    for pattern in ("**/*.toml", "***/**.toml"):
        found = load(write(tmp_path / "c.toml", f'imports = ["{pattern}"]')).sources
        assert [source.path.name for source in found] == ["c.toml", "a.toml"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path)
    main = write(tmp_path / "c.toml", 'imports = ["again/*.toml"]')
    assert {source.path.name for source in load(main).sources} == {"c.toml"}
    (tmp_path / "self.toml").symlink_to("self.toml")
    with pytest.raises(Refused, match="Too many levels of symbolic links"):
        load(tmp_path / "self.toml")


def test_a_limit_that_is_none_is_containerds_own(tmp_path: Path) -> None:
    assert load(write(tmp_path / "c.toml", "[grpc]\nmax_recv_message_size = -1")).max_message > 0
