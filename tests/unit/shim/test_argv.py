"""The scan of runc's command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.argv import Command, scan

CONTAINERD = [
    "--root", "/run/containerd/runc/k8s.io", "--log", "/b/log.json", "--log-format", "json",
    "create", "--bundle", "/b", "--pid-file", "/b/init.pid", "c1",
]  # fmt: skip


def test_a_line_of_containerd() -> None:
    command = scan(CONTAINERD)
    assert (command.verb, command.id, command.root) == ("create", "c1", CONTAINERD[1])
    assert (command.log, command.log_format) == ("/b/log.json", "json")
    assert command.options == {"bundle": "/b", "pid-file": "/b/init.pid"}
    assert command.global_options == ["--root", "/run/containerd/runc/k8s.io"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--root=/r", "--systemd-cgroup", "--debug=false", "create", "-b", "/b", "--no-pivot", "x"],
        ["-root", "/r", "-systemd-cgroup", "-debug=false", "create", "x", "--bundle=/b",
         "--no-pivot"],
        ["--root", "/r", "--systemd-cgroup", "--debug=false", "create", "-bundle", "/b",
         "--no-pivot", "--", "x"],
    ],
)  # fmt: skip
def test_spellings_of_options(arguments: list[str]) -> None:
    command = scan(arguments)
    assert (command.verb, command.id, command.root) == ("create", "x", "/r")
    assert command.options["bundle"] == "/b"
    assert command.options["no-pivot"] == "true"
    assert len(command.global_options) in (3, 4)


@pytest.mark.parametrize(
    ("arguments", "verb", "bundle"),
    [
        (["create", "--bundle", "create", "delete"], "create", "create"),
        (["--root", "create", "create", "--bundle", "--force", "c"], "create", "--force"),
        (["--log", "start", "create", "--pid-file", "--bundle", "--bundle", "b", "c"],
         "create", "b"),
    ],
)  # fmt: skip
def test_values_that_look_like_verbs_and_options(
    arguments: list[str], verb: str, bundle: str
) -> None:
    command = scan(arguments)
    assert (command.verb, command.options["bundle"]) == (verb, bundle)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--version"],
        ["--unknown", "create", "--bundle", "b", "c"],
        ["create", "--new-option", "create", "c"],
        ["create", "--bundle"],
        ["--root"],
        ["create", "--bundle", "b"],
        ["create", "--bundle", "b", "one", "two"],
        ["create", "--bundle", "b", "../up"],
        ["create", "--bundle", "b", ".."],
        ["exec", "c", "create"],
        ["state", "c"],
    ],
)
def test_what_is_not_understood_has_no_verb(arguments: list[str]) -> None:
    assert scan(arguments).verb == ""


def test_delete_and_start() -> None:
    forced = scan(["--root", "/r", "delete", "--force", "c"])
    assert (forced.verb, forced.id, forced.options) == ("delete", "c", {"force": "true"})
    assert scan(["delete", "-f", "c"]).options == {"force": "true"}
    assert scan(["start", "c"]).id == "c"


def test_the_root_without_the_option_is_that_of_runc() -> None:
    assert scan(["start", "c"]).root == "/run/runc"


WORDS = st.one_of(
    st.sampled_from(
        ["create", "delete", "start", "--bundle", "-b", "--root", "--log=x", "--", "-", "c", "-f",
         "--force", "--pid-file", "--debug", "--no-pivot", "--root=", "", "--=", "="]
    ),
    st.text(max_size=6),
)  # fmt: skip


@given(st.lists(WORDS, max_size=10))
def test_the_scan_never_fails_and_an_id_is_one_path_component(arguments: list[str]) -> None:
    command = scan(arguments)
    assert isinstance(command, Command)
    if command.verb:
        assert command.id
        assert "/" not in command.id
        assert command.id not in (".", "..")
        assert command.verb in arguments
        assert command.id in arguments
    else:
        assert command.id == ""


@given(
    bundle=st.text(min_size=1, max_size=20),
    root=st.text(min_size=1, max_size=20),
    log=st.text(min_size=1, max_size=20),
)
def test_any_value_comes_through_unchanged(bundle: str, root: str, log: str) -> None:
    command = scan(["--root", root, "--log", log, "create", "--bundle", bundle, "id"])
    assert (command.root, command.log, command.options["bundle"]) == (root, log, bundle)
