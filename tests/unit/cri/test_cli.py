from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cri import cli
from cri.__main__ import main
from cri.store import Store
from cri.version import VERSION
from shim.errors import Broken, Unfit

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr("cri.commands.list.run", run)


def usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    first, last = captured.err.rstrip("\n").split("\n")
    assert first.startswith("usage: podthaw ")
    return last


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr() == (f"podthaw {VERSION}\n", "")


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: podthaw ")
    for name, command in cli.COMMANDS.items():
        assert name in captured.err
        assert command.help in captured.err


def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_error(["lst"], capsys) == (
        "podthaw: there is no command 'lst', did you mean list?; see `podthaw --help`"
    )
    assert usage_error(["xyz"], capsys) == (
        "podthaw: there is no command 'xyz'; see `podthaw --help`"
    )
    assert usage_error(["tag", "a"], capsys) == (
        "podthaw: the following arguments are required: NEWNAME; see `podthaw tag --help`"
    )
    assert usage_error(["list", "--what"], capsys) == (
        "podthaw: unrecognized arguments: --what; see `podthaw --help`"
    )
    assert usage_error(["\x1b[31m"], capsys) == (
        r"podthaw: there is no command '\x1b[31m'; see `podthaw --help`"
    )


def test_expected_errors_are_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(Unfit("there is none"), monkeypatch)
    assert main(["list"]) == 1
    assert capsys.readouterr() == ("", "podthaw: there is none\n")
    fail_with(Broken("it is damaged", detail="one\ntwo"), monkeypatch)
    assert main(["list"]) == 1
    assert capsys.readouterr() == ("", "podthaw: it is damaged\n  one\n  two\n")


def test_unexpected_errors_are_a_line_and_a_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(ZeroDivisionError("division by zero"), monkeypatch)
    assert main(["list"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "podthaw: unexpected ZeroDivisionError: division by zero; "
        "`podthaw -D …` shows where it comes from\n"
    )
    fail_with(RuntimeError(), monkeypatch)
    assert main(["list"]) == 1
    assert "unexpected RuntimeError: no text; " in capsys.readouterr().err


def test_debug_shows_where_an_error_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(ZeroDivisionError("division by zero"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        main(["-D", "list"])
    fail_with(Unfit("there is none"), monkeypatch)
    with pytest.raises(Unfit):
        main(["--debug", "list"])


def test_ctrl_c_is_clean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert main(["list"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_went_away_is_no_traceback(node_config: Path, tmp_path: Path) -> None:
    Store(tmp_path / "store").create()
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "cri", "--config", str(node_config), "list", "-o", "json"],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ([], None),
        (["list"], "list"),
        (["-D", "list", "gc"], "list"),
        (["--config", "gc", "list"], "list"),
        (["--config=gc", "list"], "list"),
        (["--config"], None),
        (["--version"], None),
    ],
)
def test_chosen_command(arguments: list[str], chosen: str | None) -> None:
    assert cli.chosen_command(arguments) == chosen


def test_config_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = cli.build_parser("list").parse_args
    monkeypatch.delenv("PODTHAW_CONFIG", raising=False)
    own = tmp_path / "containerd.toml"
    assert Path("/etc/podthaw/containerd.toml") == cli.SETTINGS_OF_1_7
    monkeypatch.setattr(cli, "SETTINGS_OF_1_7", own)
    assert cli.config_path(parse(["list"])) == Path("/etc/containerd/config.toml")
    own.touch()
    assert cli.config_path(parse(["list"])) == own
    monkeypatch.setenv("PODTHAW_CONFIG", "/from/environment")
    assert cli.config_path(parse(["list"])) == Path("/from/environment")
    assert cli.config_path(parse(["--config", "/given", "list"])) == Path("/given")


def loaded_by(*arguments: str) -> set[str]:
    code = (
        "import sys\n"
        "from cri.__main__ import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split("\n")[-2].split(" "))


def test_only_what_a_command_needs_is_loaded() -> None:
    heavy = {"grpc", "google.protobuf", "yaml", "asyncio", "cri.store"}
    for arguments in (("--version",), ("--help",)):
        loaded = loaded_by(*arguments)
        assert "cri.cli" in loaded
        assert not loaded & heavy
        assert not [name for name in loaded if name.startswith("cri.commands.")]
    loaded = loaded_by("list", "--help")
    assert "cri.commands.list" in loaded
    assert not loaded & {"grpc", "google.protobuf", "yaml", "asyncio"}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_help_text_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    captured = capsys.readouterr()
    assert f"usage: podthaw {name} " in captured.out
    assert "example" in captured.out
    assert f"podthaw {name}" in captured.out.split("example")[-1]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_says_of_itself_what_the_table_says(name: str) -> None:
    def line(parser: argparse.ArgumentParser) -> tuple[str | None, set[str]]:
        (commands,) = (
            action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
        )
        (choice,) = (one for one in commands._choices_actions if one.dest.split(" ")[0] == name)
        words = {word for word, one in commands.choices.items() if one.prog == f"podthaw {name}"}
        return choice.help, words

    importlib.import_module(cli.COMMANDS[name].module)
    assert line(cli.build_parser(name)) == line(cli.build_parser(None))


def test_an_alias_is_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rm", "--help"])
    assert capsys.readouterr().out.startswith("usage: podthaw r")


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("command", [["list"], ["config", "show"], ["--help"], ["no-such"]])
def test_closed_standard_streams_are_no_error_of_their_own(
    node_config: Path, closed: tuple[int, ...], command: list[str]
) -> None:
    """``podthaw … >&-``, as cron and service managers may start it."""
    program = [sys.executable, "-m", "cri", "--config", str(node_config), *command]
    whole = subprocess.run(program, capture_output=True, check=False)
    close = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {close}', "sh", *program], capture_output=True, check=False
    )
    assert done.returncode == whole.returncode
    assert done.stdout == (b"" if 1 in closed else whole.stdout)
    assert done.stderr == (b"" if 2 in closed else whole.stderr)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_a_sentence(node_config: Path, unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cri", "--config", str(node_config), "config", "show"],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "podthaw: the output cannot be written: No space left on device\n"
