from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from tests.node import cache, debian, execute, janitor


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PODTHAW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_thing_is_built_once() -> None:
    built: list[Path] = []

    def build(target: Path) -> None:
        built.append(target)
        target.mkdir()

    assert cache.once("thing", build) == cache.once("thing", build)
    assert len(built) == 1


def test_a_failed_build_leaves_nothing(empty_cache: Path) -> None:
    def build(target: Path) -> None:
        target.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        cache.once("thing", build)
    assert [path.name for path in empty_cache.iterdir()] == [".locks"]


def test_a_key_tells_parts_apart(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("ab")
    assert cache.key("ab", "c") != cache.key("a", "bc")
    assert cache.key(file) == cache.key("ab") == cache.key(b"ab")


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("sources.list", "deb http://m.example/debian bookworm main\n", "http://m.example/debian"),
        (
            "sources.list.d/a.sources",
            "URIs: https://m.example/debian/\n",
            "https://m.example/debian/",
        ),
        ("sources.list", "# deb http://m.example/debian x\ndeb http://m.example/ubuntu y\n", None),
        ("sources.list", "deb http://m.example/debian-security bookworm main\n", None),
    ],
)
def test_the_mirror_is_the_one_that_apt_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, found: str | None
) -> None:
    monkeypatch.setattr(debian, "APT_SOURCES", tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert debian.mirror() == found


@pytest.mark.parametrize("early", [0, 3, 8, 10, 33])
def test_both_outputs_are_read_from_one_stream(early: int) -> None:
    """Some octets came already, with the head of the engine's answer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames = [(1, b"out"), (2, b"err"), (1, b"put")]
        sent = b"".join(struct.pack(">BxxxL", one, len(data)) + data for one, data in frames)
        theirs.sendall(sent[early:])
        theirs.shutdown(socket.SHUT_WR)
        assert execute._read_frames(ours, bytearray(sent[:early])) == {1: b"output", 2: b"err"}


def test_an_owner_lives_as_long_as_its_process() -> None:
    assert janitor._lives(janitor.owner())
    assert not janitor._lives(f"{os.getpid()}.1")  # the number was used again
    assert not janitor._lives("4194304.5")
