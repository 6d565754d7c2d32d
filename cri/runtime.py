"""What the daemon's decisions rest on besides files: the configuration and containerd's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cri.annotations import Defaults
from cri.prefetch.prefetcher import Limits
from cri.proto import cri_pb2 as pb
from shim import plan
from shim.cuda import DRIVER


class Runtime(Protocol):
    """What is asked of containerd: :class:`cri.runtime_client.RuntimeClient`."""

    async def status(self) -> pb.StatusResponse:
        """Conditions and runtime handlers."""

    async def pod_sandbox_status(self, sandbox: str) -> pb.PodSandboxStatusResponse:
        """Network, metadata and state of a sandbox."""

    async def list_pod_sandbox(self) -> list[pb.PodSandbox]:
        """All sandboxes."""

    async def container_status(self, container: str) -> pb.ContainerStatusResponse:
        """State of a container."""

    async def image_status(
        self, image: pb.ImageSpec, *, verbose: bool = False
    ) -> pb.ImageStatusResponse:
        """An image."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The part of the node's configuration that the decisions need."""

    run: Path = Path(plan.DEFAULT_RUN)
    state: Path = Path("/var/lib/podthaw")
    handlers: Mapping[str, str] = field(
        default_factory=lambda: {"": "podthaw", "nvidia": "podthaw-nvidia"}
    )
    """Runtime handler that kubelet asks for → the one of ours that takes its place."""
    defaults: Defaults = field(default_factory=Defaults)
    restore_timeout: float = 60.0
    """Seconds."""
    runtime: str = "runc"
    criu: str = "criu"
    cuda: str = DRIVER
    capture: Sequence[str] = ("podthaw", "capture")
    """The command that captures a container, before its options."""
    containerd_state: Path = Path("/run/containerd")
    """containerd's ``state`` folder."""
    ahead: Limits = field(default_factory=Limits)
    """What reading snapshots ahead may use."""
    has_mptcp: bool = False
    """Whether programs on this node may use Multipath TCP."""
