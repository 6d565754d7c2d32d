"""Pods that opted in get plain TCP where a program asks for Multipath TCP.

CRIU can save no MPTCP socket (criu/sk-inet.c), not even one that only listens, and programs in Go
listen with MPTCP wherever the kernel has it (Go 1.24 and newer, net.ListenConfig). With the
sysctl off, the kernel refuses such sockets in the pod's network namespace, and programs fall back
to TCP by themselves, as on a kernel without MPTCP.
"""

from __future__ import annotations

from pathlib import Path

from cri.proto import cri_pb2 as pb

SYSCTL = "net.mptcp.enabled"
"""Linux: Documentation/networking/mptcp-sysctl.rst; one value a network namespace."""


def is_available(root: Path = Path("/proc/sys")) -> bool:
    """Whether this kernel has the sysctl; naming one that is absent fails a sandbox."""
    return root.joinpath(*SYSCTL.split(".")).exists()


def switch_off(config: pb.PodSandboxConfig) -> None:
    """Add the sysctl to a sandbox, unless the pod sets it itself or has the node's network."""
    if config.linux.security_context.namespace_options.network == pb.NODE:
        return
    if SYSCTL not in config.linux.sysctls:
        config.linux.sysctls[SYSCTL] = "0"
