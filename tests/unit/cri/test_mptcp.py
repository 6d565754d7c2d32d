from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cri import annotations as wishes
from cri import mptcp
from cri.intercept import Interceptor
from cri.proto import cri_pb2 as pb
from tests.unit.cri.daemon import FakeCall, Node, sandbox_config


@pytest.mark.parametrize(
    ("config", "sysctls"),
    [
        (pb.PodSandboxConfig(), {mptcp.SYSCTL: "0"}),
        (
            pb.PodSandboxConfig(linux=pb.LinuxPodSandboxConfig(sysctls={"net.core.a": "9"})),
            {mptcp.SYSCTL: "0", "net.core.a": "9"},
        ),
        (
            pb.PodSandboxConfig(linux=pb.LinuxPodSandboxConfig(sysctls={mptcp.SYSCTL: "1"})),
            {mptcp.SYSCTL: "1"},
        ),
        (
            pb.PodSandboxConfig(
                linux=pb.LinuxPodSandboxConfig(
                    security_context=pb.LinuxSandboxSecurityContext(
                        namespace_options=pb.NamespaceOption(network=pb.NODE)
                    )
                )
            ),
            {},
        ),
    ],
    ids=["none", "others", "own", "host network"],
)
def test_switched_off_where_it_is_the_pods_to_switch(
    config: pb.PodSandboxConfig, sysctls: dict[str, str]
) -> None:
    mptcp.switch_off(config)
    assert dict(config.linux.sysctls) == sysctls


def test_available_where_the_kernel_has_the_sysctl(tmp_path: Path) -> None:
    assert not mptcp.is_available(tmp_path)
    (tmp_path / "net/mptcp").mkdir(parents=True)
    (tmp_path / "net/mptcp/enabled").write_text("1\n")
    assert mptcp.is_available(tmp_path)


@pytest.mark.parametrize(
    ("kernel", "annotations", "sysctls"),
    [
        ("with MPTCP", {wishes.SNAPSHOT: "small"}, {mptcp.SYSCTL: "0"}),
        ("without", {wishes.SNAPSHOT: "small"}, {}),
        ("with MPTCP", {"example.com/a": "b"}, {}),
    ],
    ids=["opted in", "no MPTCP here", "not opted in"],
)
def test_of_a_sandbox(
    tmp_path: Path, kernel: str, annotations: dict[str, str], sysctls: dict[str, str]
) -> None:
    node = Node(tmp_path)
    options = replace(node.options, has_mptcp=kernel == "with MPTCP")
    node.interceptor = Interceptor(options, node.store, node.runtime)
    request = pb.RunPodSandboxRequest(config=sandbox_config(annotations))
    call = FakeCall("RunPodSandbox", request.SerializeToString(), b"")
    node.serve(call)
    assert call.forwarded is not None
    sent = pb.RunPodSandboxRequest.FromString(call.forwarded)
    assert dict(sent.config.linux.sysctls) == sysctls
