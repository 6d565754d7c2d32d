from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.config import KEYS, Settings, effective, load_settings
from shim.errors import Refused

DROP_IN = Path(__file__).parents[3] / "config/containerd.toml"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def into(text: str, name: str = "config.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return into


def ours(text: str) -> str:
    return f'version = 3\n[plugins."dev.podthaw.v1"]\n{text}\n'


def test_an_empty_file_gives_every_default(write: Callable[..., Path]) -> None:
    assert load_settings(write("")) == Settings(
        containerd="/run/containerd/containerd.sock", files=(write(""),)
    )


def test_the_drop_in_states_every_key_with_its_default(write: Callable[..., Path]) -> None:
    shipped, defaults = load_settings(DROP_IN), load_settings(write(""))
    assert effective(shipped) == effective(defaults)
    text = DROP_IN.read_text()
    for key in KEYS:
        assert f"{key} = " in text or f'dev.podthaw.v1".{key}]' in text, key
    assert shipped.runtimes["podthaw"].binary == "/opt/podthaw/bin/podthaw-runc"
    assert set(shipped.handlers.values()) <= set(shipped.runtimes)


def test_values_take_their_units(write: Callable[..., Path]) -> None:
    settings = load_settings(
        write(
            ours(
                'restore_timeout = "1m30s"\ncapture_timeout = "2h"\ngc_max_count = 5\n'
                'gc_max_age = "30d"\ngc_max_size = "10GiB"\non_failure = "fail"\n'
                'prefetch_bandwidth = "500MB"\n'
                'tcp = "established"\nhandlers = { "" = "mine" }\ncriu = "/opt/criu"\n'
                'health = "127.0.0.1:9000"\nsocket = "unix:///x/y.sock"\n'
            )
        )
    )
    assert settings.restore_timeout == 90
    assert settings.capture_timeout == 7200
    assert (settings.gc_max_count, settings.gc_max_age) == (5, 30 * 86400)
    assert settings.gc_max_size == 10 << 30
    assert settings.prefetch_bandwidth == 500_000_000
    assert settings.prefetch_memory is None
    assert (settings.on_failure, settings.tcp) == ("fail", "established")
    assert settings.handlers == {"": "mine"}
    assert (settings.criu, settings.health) == ("/opt/criu", "127.0.0.1:9000")
    assert settings.socket == "/x/y.sock"


def test_what_follows_from_other_keys(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PODTHAW_RUN", "/r")
    settings = load_settings(write(ours('state = "/s"') + '[grpc]\naddress = "/c.sock"\n'))
    assert settings.run == Path("/r")
    assert settings.containerd == "/c.sock"
    assert (settings.socket, settings.health) == ("/r/podthaw.sock", "/r/health.sock")
    assert settings.store == Path("/s/store")
    settings = load_settings(
        write(ours('socket = "/q.sock"\ncontainerd = "unix:///d.sock"\nhealth = ""'))
    )
    assert (settings.socket, settings.containerd, settings.health) == ("/q.sock", "/d.sock", "")


@pytest.mark.parametrize(
    ("line", "key", "wanted"),
    [
        ("restore_timeout = 60", "restore_timeout", 'such as "60s"'),
        ('restore_timeout = "0s"', "restore_timeout", "above zero"),
        ('restore_timeout = "soon"', "restore_timeout", 'found "soon"'),
        ('on_failure = "warm"', "on_failure", 'one of "cold", "fail"'),
        ("on_failure = true", "on_failure", "found true"),
        ('tcp = "open"', "tcp", '"close", "established"'),
        ('memory = "lazy"', "memory", '"mapped", "eager"'),
        ('log_level = "loud"', "log_level", '"debug", "info", "warning", "error"'),
        ('log_format = "xml"', "log_format", '"text", "json"'),
        ('store = "relative"', "store", "an absolute path"),
        ('store = ""', "store", "not empty"),
        ("socket = 3", "socket", "a text"),
        ('socket = "tcp://1.2.3.4:5"', "socket", "unix socket"),
        (f'socket = "/{"x" * 110}"', "socket", "107 bytes"),
        ('runtime = "bin/runc"', "runtime", "absolute path"),
        ("gc_max_count = 0", "gc_max_count", 'above zero, or "none"'),
        ("gc_max_count = true", "gc_max_count", "whole number"),
        ('prefetch = "warm"', "prefetch", '"all", "hot", "none"'),
        ("prefetch_bandwidth = 5", "prefetch_bandwidth", '"200GiB", or "none"'),
        ('prefetch_memory = "0"', "prefetch_memory", '"200GiB", or "none"'),
        ('gc_max_size = "big"', "gc_max_size", '"200GiB", or "none"'),
        ("gc_max_age = []", "gc_max_age", 'or "none"'),
        ('handlers = "podthaw"', "handlers", "a table"),
        ('handlers = { "" = "" }', "handlers", "a table"),
        ('handlers = { "" = "a", "a" = "b" }', "handlers", "no handler is on both sides"),
        ('health = "somewhere"', "health", "HOST:PORT"),
        ('health = "host:99999"', "health", "HOST:PORT"),
        ('colour = "red"', "colour", "no such key; there are capture_timeout"),
    ],
)
def test_a_wrong_value_is_named(
    write: Callable[..., Path], line: str, key: str, wanted: str
) -> None:
    path = write(ours(line))
    with pytest.raises(Refused) as refused:
        load_settings(path)
    message = str(refused.value)
    assert message.startswith(f'{path}: plugins."dev.podthaw.v1".{key}: ')
    assert wanted in message


def test_all_that_is_wrong_is_told_at_once_with_its_file(write: Callable[..., Path]) -> None:
    write(ours("gc_max_count = -1\nrestore_timeout = 5"), "conf.d/a.toml")
    path = write('imports = ["conf.d/*.toml"]\n[plugins."dev.podthaw.v1"]\ntcp = 1\nnope = 2\n')
    with pytest.raises(Refused, match="4 values") as refused:
        load_settings(path)
    lines = refused.value.detail.splitlines()
    assert len(lines) == 4
    assert [line.split(":")[0] for line in lines] == [str(path)] * 2 + [
        str(path.parent / "conf.d/a.toml")
    ] * 2


def test_a_table_that_is_none(write: Callable[..., Path]) -> None:
    with pytest.raises(Refused, match="wanted a table"):
        load_settings(write('[plugins]\n"dev.podthaw.v1" = 5\n'))


def test_later_files_win_key_by_key(write: Callable[..., Path]) -> None:
    write(ours('tcp = "established"\nlog_level = "debug"'), "conf.d/b.toml")
    write(ours('tcp = "close"\non_failure = "fail"'), "conf.d/a.toml")
    path = write('imports = ["conf.d/*.toml"]\n' + ours('log_level = "error"'))
    settings = load_settings(path)
    assert (settings.tcp, settings.log_level, settings.on_failure) == (
        "established",
        "debug",
        "fail",
    )


def test_the_proxy_cannot_stand_on_containerds_socket(write: Callable[..., Path]) -> None:
    with pytest.raises(Refused, match="a socket of Podthaw's own"):
        load_settings(write(ours('socket = "/run/containerd/containerd.sock"')))


toml_values = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=2)
)


@given(st.sampled_from(sorted(KEYS)), toml_values)
def test_a_check_takes_a_value_or_says_what_is_wanted(key: str, value: Any) -> None:
    try:
        KEYS[key](value)
    except ValueError as wrong:
        told = str(wrong)
    else:
        told = "a value"
    assert told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/" + "r" * 200, r"wanted .* podthaw.sock .* at most 107 bytes"),
        ("run", "wanted an absolute path"),
    ],
)
def test_a_run_folder_that_cannot_be_used_is_refused(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, value: str, told: str
) -> None:
    monkeypatch.setenv("PODTHAW_RUN", value)
    with pytest.raises(Refused, match=f"PODTHAW_RUN: {told}"):
        load_settings(write(ours("")))
