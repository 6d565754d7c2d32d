from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import spec
from shim.errors import Refused
from shim.snapshot import Mount

SPEC: dict[str, Any] = {
    "hostname": "web-0",
    "annotations": {"io.kubernetes.cri.container-name": "main"},
    "process": {
        "args": ["/bin/server", "--port", "80"],
        "env": ["A=1"],
        "terminal": False,
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [20, 10]},
        "capabilities": {
            "bounding": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_CHOWN"],
            "permitted": ["CAP_CHOWN"],
        },
        "noNewPrivileges": True,
        "apparmorProfile": "cri-containerd.apparmor.d",
        "selinuxLabel": "system_u:system_r:container_t:s0:c1,c2",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
    },
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/etc/hosts", "type": "bind", "source": "/nowhere", "options": ["rbind"]},
        {"destination": "/data", "source": "/", "options": ["rbind", "rw"]},
    ],
    "linux": {
        "cgroupsPath": "/kubepods/a",
        "namespaces": [
            {"type": "pid"},
            {"type": "network", "path": "/proc/7/ns/net"},
        ],
        "maskedPaths": ["/proc/kcore", "/proc/acpi"],
        "readonlyPaths": ["/proc/sys"],
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}],
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}],
        },
        "resources": {
            "memory": {"limit": 1},
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            ],
        },
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    result = copy.deepcopy(SPEC)
    *parents, last = path.split(".")
    at = result
    for key in parents:
        at = at[key]
    at[last] = value
    return result


def test_the_profile_survives_json() -> None:
    profile = spec.security_profile(SPEC)
    assert json.loads(json.dumps(profile)) == profile
    assert spec.difference(profile, spec.security_profile(copy.deepcopy(SPEC))) == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hostname", "web-1"),
        ("process.env", ["A=2"]),
        ("process.oomScoreAdj", -997),
        ("process.args", ["/bin/other"]),
        ("process.user.additionalGids", [10, 20]),
        ("process.capabilities.bounding", ["CAP_CHOWN", "CAP_KILL"]),
        ("process.selinuxLabel", "system_u:system_r:container_t:s0:c8,c9"),
        ("linux.cgroupsPath", "/kubepods/b"),
        ("linux.namespaces", [{"type": "network", "path": "/proc/9/ns/net"}, {"type": "pid"}]),
        ("linux.maskedPaths", ["/proc/acpi", "/proc/kcore"]),
        ("linux.resources.memory", {"limit": 2}),
        ("linux.seccomp.architectures", ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"]),
        ("annotations", {}),
    ],
)
def test_what_may_differ(path: str, value: object) -> None:
    left, right = spec.security_profile(SPEC), spec.security_profile(changed(path, value))
    assert spec.difference(left, right) == ""
    assert left == right


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("process.user.uid", 0, "user.uid: the snapshot has 1000, this container 0"),
        ("process.user.additionalGids", [10], "user.additional gids"),
        ("process.noNewPrivileges", False, "the snapshot has yes, this container no"),
        (
            "process.capabilities.effective",
            ["CAP_CHOWN", "CAP_SYS_ADMIN"],
            "capabilities.effective: compared with the snapshot this container has CAP_SYS_ADMIN",
        ),
        ("process.capabilities.bounding", ["CAP_CHOWN"], "lacks CAP_KILL"),
        ("process.apparmorProfile", "", "apparmor"),
        ("process.selinuxLabel", "system_u:system_r:spc_t:s0", "selinux"),
        ("process.rlimits", [], "rlimits"),
        ("root.readonly", False, "readonly rootfs"),
        ("linux.namespaces", [{"type": "pid", "path": "/proc/7/ns/pid"}], "namespaces.network"),
        ("linux.maskedPaths", [], "masked paths"),
        ("linux.readonlyPaths", [], "readonly paths"),
        ("linux.devices", [], "lacks /dev/fuse c 10:229"),
        ("linux.resources.devices", [{"allow": True}], "allow a *:* rwm"),
        ("linux.sysctl", {}, "sysctl"),
        ("linux.seccomp", None, "seccomp"),
        ("linux.seccomp.defaultAction", "SCMP_ACT_ALLOW", "seccomp"),
        ("linux.seccomp.syscalls", [], "seccomp"),
        ("linux.rootfsPropagation", "shared", "rootfs propagation"),
    ],
)
def test_what_must_not_differ(path: str, value: object, words: str) -> None:
    told = spec.difference(spec.security_profile(SPEC), spec.security_profile(changed(path, value)))
    assert told.startswith("the security profile differs in ")
    assert words in told


def test_a_joined_and_an_own_namespace_differ() -> None:
    joined = changed("linux.namespaces", [{"type": "pid", "path": "/x"}])
    own = changed("linux.namespaces", [{"type": "pid", "path": ""}])
    told = spec.difference(spec.security_profile(own), spec.security_profile(joined))
    assert "namespaces.pid: the snapshot has own, this container joined" in told


def test_the_nodes_own_namespace_is_told_from_one_that_is_joined(tmp_path: Path) -> None:
    """A pod with hostNetwork joins by path, too: /proc/PID/ns of a sandbox in the node's."""
    (tmp_path / "ns").write_text("another")
    for kind, name in (("network", "net"), ("ipc", "ipc"), ("uts", "uts")):
        pods = changed("linux.namespaces", [{"type": kind, "path": str(tmp_path / "ns")}])
        nodes = changed(
            "linux.namespaces", [{"type": kind, "path": f"/proc/{os.getpid()}/ns/{name}"}]
        )
        assert spec.node_namespaces(pods) == frozenset()
        assert spec.node_namespaces(nodes) == {kind}
        told = spec.difference(
            spec.security_profile(pods, spec.node_namespaces(pods)),
            spec.security_profile(nodes, spec.node_namespaces(nodes)),
        )
        assert f"namespaces.{kind}: the snapshot has joined, this container the node's" in told
    gone = changed("linux.namespaces", [{"type": "ipc", "path": "/nowhere\0"}, {"type": "pid"}])
    assert spec.node_namespaces(gone) == frozenset()


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ([], []),
        (["rbind", "rprivate", "rw"], ["rprivate"]),
        (["rbind", "rprivate", "ro"], ["ro", "rprivate"]),
        (["ro", "rw"], []),
        (["rw", "ro"], ["ro"]),
        (["rbind", "rro", "rslave"], ["rro", "rslave"]),
        (["nosuid", "noexec", "nodev", "relatime", "mode=755", "size=65536k"],
         ["nodev", "noexec", "nosuid"]),
        (["private", "rshared"], ["rshared"]),
        (["nosuid", "suid", "rnoexec"], ["rnoexec"]),
    ],
)  # fmt: skip
def test_flags_of_mounts(tmp_path: Path, options: list[str], flags: list[str]) -> None:
    asked = {"mounts": [{"destination": "/x", "type": "tmpfs", "options": options}]}
    assert spec.mounts(asked, tmp_path)[0].flags == flags


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*SPEC, "x"]), JSON))
def test_a_strange_spec_never_raises_anything_but_value_errors(value: dict[str, Any]) -> None:
    try:
        profile = spec.security_profile(value)
    except (ValueError, TypeError):
        return
    assert spec.difference(profile, profile) == ""


@given(JSON, JSON)
def test_difference_is_empty_exactly_for_equal_profiles(left: object, right: object) -> None:
    told = spec.difference({"a": left}, {"a": right})
    assert (told == "") == (spec._first_difference(left, right, ()) is None)
    if left == right:
        assert told == ""


def test_mounts(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("")
    assert spec.mounts(SPEC, tmp_path) == [
        Mount(destination="/proc", type="proc", kind="dir"),
        Mount(destination="/etc/hosts", type="bind", kind="file"),
        Mount(destination="/data", type="bind", kind="dir"),
    ]


def test_facts() -> None:
    assert spec.arguments(SPEC) == ["/bin/server", "--port", "80"]
    assert not spec.has_terminal(SPEC)
    assert spec.namespace_path(SPEC, "network") == "/proc/7/ns/net"
    assert spec.namespace_path(SPEC, "pid") == ""
    assert spec.namespace_path(SPEC, "ipc") is None
    assert spec.device_paths(SPEC) == ["/dev/fuse"]


def test_reading(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read: No such file"):
        spec.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Refused, match="not JSON"):
        spec.read(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(Refused, match="not a JSON object"):
        spec.read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SPEC))
    assert spec.read(tmp_path) == SPEC


def gpu_spec(
    number: int, *, major: int = 195, uvm: int = 508, access: str = "rwm"
) -> dict[str, Any]:
    def rule(minor: int, of: int = major) -> dict[str, object]:
        return {"allow": True, "type": "c", "major": of, "minor": minor, "access": access}

    return {
        "linux": {
            "devices": [
                {"path": f"/dev/nvidia{number}", "type": "c", "major": major, "minor": number},
                {"path": "/dev/nvidia-uvm", "type": "c", "major": uvm, "minor": 0},
            ],
            "resources": {"devices": [rule(number), rule(0, uvm), rule(229, 10)]},
        }
    }


def test_another_gpu_is_no_other_profile() -> None:
    one = spec.security_profile(gpu_spec(0))
    assert spec.difference(one, spec.security_profile(gpu_spec(7, uvm=510))) == ""
    assert one["devices"] == ["/dev/nvidia-uvm c", "/dev/nvidiaN c"]
    assert "allow c 10:229 rwm" in one["device_rules"]


def test_other_access_or_more_gpus_are_another_profile() -> None:
    one = spec.security_profile(gpu_spec(0))
    assert "device rules" in spec.difference(one, spec.security_profile(gpu_spec(0, access="r")))
    more = gpu_spec(0)
    nodes = [*more["linux"]["devices"], *gpu_spec(1)["linux"]["devices"][:1]]
    two = {"linux": {**more["linux"], "devices": nodes}}
    assert "devices" in spec.difference(one, spec.security_profile(two))


def test_sources_that_are_links_become_what_they_lead_to(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("")
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("folder/real")
    tmpfs = {"destination": "/t", "type": "tmpfs", "source": str(tmp_path / "link")}
    plain = {"destination": "/p", "type": "bind", "source": str(real)}
    link = {"destination": "/l", "options": ["rbind"], "source": str(tmp_path / "link")}
    relative = {"destination": "/r", "type": "bind", "source": "absent"}
    given_spec = {"root": {"path": "/"}, "mounts": [tmpfs, plain, link, relative]}
    found = spec.with_real_sources(given_spec)
    assert found == {
        "root": {"path": "/"},
        "mounts": [tmpfs, plain, {**link, "source": str(real)}, relative],
    }
    assert given_spec["mounts"][2] == link
