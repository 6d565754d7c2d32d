from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import dropin

RUNTIME = {
    "runtime_type": "io.containerd.runc.v2",
    "sandboxer": "podsandbox",
    "options": {"BinaryName": "/opt/podthaw/bin/podthaw-runc"},
}
WANTED = """\
version = 3
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.podthaw]
runtime_type = "io.containerd.runc.v2"
sandboxer = "podsandbox"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.podthaw.options]
BinaryName = "/opt/podthaw/bin/podthaw-runc"
[plugins."dev.podthaw.v1"]
store = "/var/lib/podthaw"
"""

values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
tables = st.dictionaries(st.text(), values)


@given(tables)
def test_any_table_survives_being_written_as_toml(table: dict[str, Any]) -> None:
    assert tomllib.loads("\n".join(dropin.toml(table))) == table


def test_containerd_2_gets_the_file_as_it_is() -> None:
    effective = {"version": 3, "plugins": {}}
    assert dropin.drop_in(WANTED, tomllib.loads(WANTED), effective) is WANTED


def test_containerd_1_7_gets_its_own_cri_table_with_the_runtimes_added() -> None:
    containerd = {"default_runtime_name": "runc", "runtimes": {"runc": {"options": {}}}}
    cri = {"sandbox_image": "pause", "containerd": containerd}
    other = {"io.containerd.gc.v1.scheduler": {"pause_threshold": 0.02}}
    effective = {"version": 2, "plugins": {dropin.CRI_OF_1_7: cri} | other}
    written = tomllib.loads(dropin.drop_in(WANTED, tomllib.loads(WANTED), effective))
    without_sandboxer = {key: RUNTIME[key] for key in ("runtime_type", "options")}
    runtimes = {"runc": {"options": {}}, "podthaw": without_sandboxer}
    expected = {"sandbox_image": "pause", "containerd": containerd | {"runtimes": runtimes}}
    assert written == {"version": 2, "plugins": {dropin.CRI_OF_1_7: expected}}


SHIPPED = (Path(__file__).parents[3] / "config/containerd.toml").read_text()


def systemd(plugin: str, *, version: int, default: str = "runc") -> dict[str, Any]:
    """The effective configuration of a node whose kubelet has systemd as its cgroup driver."""
    table = {
        "default_runtime_name": default,
        "runtimes": {
            "runc": {"options": {"SystemdCgroup": True}},
            "other": {"options": {"SystemdCgroup": False}},
        },
    }
    return {"version": version, "plugins": {plugin: {"containerd": table}}}


@pytest.mark.parametrize("text", [WANTED, SHIPPED], ids=["short", "shipped"])
@pytest.mark.parametrize(("plugin", "version"), [(dropin.CRI, 3), (dropin.CRI_OF_1_7, 2)])
def test_cgroups_are_left_to_systemd_as_by_the_default_runtime(
    text: str, plugin: str, version: int
) -> None:
    for default, expected in (("runc", True), ("other", None)):
        effective = systemd(plugin, version=version, default=default)
        written = tomllib.loads(dropin.drop_in(text, tomllib.loads(text), effective))
        ours = {name: one for name, one in dropin.runtimes(written).items() if "podthaw" in name}
        assert ours.keys() == dropin.runtimes(tomllib.loads(text)).keys()
        for runtime in ours.values():
            assert runtime["options"].get("SystemdCgroup") is expected
            assert runtime["options"]["BinaryName"].startswith("/opt/podthaw/bin/")


def test_what_the_file_says_of_systemd_stays() -> None:
    text = WANTED.replace("BinaryName", "SystemdCgroup = false\nBinaryName")
    effective = systemd(dropin.CRI, version=3)
    written = tomllib.loads(dropin.drop_in(text, tomllib.loads(text), effective))
    assert dropin.runtimes(written)["podthaw"]["options"]["SystemdCgroup"] is False


def test_a_runtime_without_a_table_of_options_is_told() -> None:
    text = WANTED.replace("runtimes.podthaw.options]", "runtimes.podthaw.more]")
    with pytest.raises(dropin.Failure, match="add SystemdCgroup = true to the options of"):
        dropin.with_systemd(text)


def containerd(tmp_path: Path, script: str) -> str:
    """A stand-in for the program, which sees the drop-in as ``$D``."""
    program = tmp_path / "containerd"
    program.write_text(f"#!/bin/sh\nD={tmp_path}/conf.d/drop-in.toml\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def dump(*runtimes: str) -> str:
    prefix = f'plugins."{dropin.CRI}".containerd.runtimes'
    return "\n".join(["echo version = 3", *(f"echo '[{prefix}.{name}]'" for name in runtimes)])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "conf.d/drop-in.toml"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return tmp_path / "podthaw/containerd.toml"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "podthaw.toml"
    path.write_text(WANTED)
    return path


def test_the_drop_in_is_written(tmp_path: Path, config: Path, target: Path, settings: Path) -> None:
    settings.parent.mkdir()
    settings.write_text("of a containerd that was 1.7")
    program = containerd(tmp_path, f"{dump('runc')}\n[ ! -e $D ] || tail -n +2 $D")
    dropin.install(config, target, settings, program)
    assert target.read_text() == WANTED
    assert not settings.exists()


def test_containerd_1_7_gets_a_drop_in_and_podthaw_a_file_of_its_own(
    tmp_path: Path, config: Path, target: Path, settings: Path
) -> None:
    table = f'plugins."{dropin.CRI_OF_1_7}".containerd.runtimes.runc'
    program = containerd(tmp_path, f"[ -e $D ] && exec cat $D\necho version = 2 '\n[{table}]'")
    dropin.install(config, target, settings, program)
    assert set(dropin.runtimes(tomllib.loads(target.read_text()))) == {"runc", "podthaw"}
    assert tomllib.loads(settings.read_text()) == {
        "version": 2,
        "imports": ["/etc/containerd/config.toml"],
        "plugins": {"dev.podthaw.v1": {"store": "/var/lib/podthaw"}},
    }


@pytest.mark.parametrize(
    "trouble",
    [
        (dump("runc"), "does not read"),
        (f"if [ -e $D ]; then {dump('podthaw')}\nelse {dump('runc')}\nfi", "no runtime runc"),
        (f"[ -e $D ] && {{ echo broken >&2; exit 1; }}\n{dump('runc')}", "broken"),
    ],
)
def test_what_containerd_does_not_take_is_undone(
    tmp_path: Path, config: Path, target: Path, settings: Path, trouble: tuple[str, str]
) -> None:
    script, message = trouble
    for path in (target, settings):
        path.parent.mkdir()
        path.write_text("the former one")
    with pytest.raises(dropin.Failure, match=message):
        dropin.install(config, target, settings, containerd(tmp_path, script))
    assert target.read_text() == settings.read_text() == "the former one"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_config_without_runtimes_is_refused(tmp_path: Path, target: Path, settings: Path) -> None:
    config = tmp_path / "podthaw.toml"
    config.write_text("version = 3\n")
    with pytest.raises(dropin.Failure, match="declares no runtime"):
        dropin.install(config, target, settings, "/nonexistent")


def nvidia(program: Path) -> dict[str, Any]:
    table = {"containerd": {"runtimes": {"nvidia": {"options": {"BinaryName": str(program)}}}}}
    return {"version": 3, "plugins": {dropin.CRI: table}}


def test_containerds_own_gpu_runtime_is_linked_and_its_configuration_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "toolkit/nvidia-container-runtime"
    configuration = program.parent / ".config/nvidia-container-runtime/config.toml"
    configuration.parent.mkdir(parents=True)
    link = tmp_path / "prefix/nvidia/nvidia-container-runtime"
    link.parent.mkdir(parents=True)
    for runtimes, expected in (('["runc"]', ""), ('["/usr/sbin/runc"]', "by its path")):
        configuration.write_text(f"[nvidia-container-runtime]\nruntimes = {runtimes}\n")
        dropin.link_nvidia(nvidia(program), tmp_path / "prefix")
        assert link.readlink() == program
        told = capsys.readouterr().err
        assert expected in told
        assert bool(told) == bool(expected)
    dropin.link_nvidia({"version": 3, "plugins": {}}, tmp_path / "prefix")
    assert not link.is_symlink()
