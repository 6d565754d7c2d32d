"""Runtime handlers: ours take the place of those that kubelet asks for, and are not shown to it.

The answers are told apart by the pod's annotations, not by memory, so that a daemon that is
restarted shows the same as before.
"""

from __future__ import annotations

from collections.abc import Mapping

from cri import annotations as wishes
from cri.messages import parse
from cri.proto import cri_pb2 as pb

_MARK = wishes.SNAPSHOT.encode()


class Handlers:
    """The table of the configuration, both ways.

    The filters give bytes back as they came unless they show a sandbox of a pod that opted in,
    under a handler of ours.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        self._ours = dict(table)
        self._theirs: dict[str, str] = {}
        for theirs, ours in table.items():
            # Where one of ours stands in for several, the first is shown: nothing tells which.
            self._theirs.setdefault(ours, theirs)

    @property
    def ours(self) -> frozenset[str]:
        """The runtime handlers that lead to the OCI runtime wrapper."""
        return frozenset(self._theirs)

    def replacement(self, handler: str) -> str | None:
        """Our handler for the one that kubelet asks for; itself when it is ours, else None."""
        if handler in self._theirs:
            return handler
        return self._ours.get(handler)

    def sandbox_status(self, response: bytes) -> bytes:
        """PodSandboxStatusResponse."""
        if _MARK not in response:
            return response
        message = parse(pb.PodSandboxStatusResponse, response)
        if message is None:
            return response
        return message.SerializeToString() if self._restore(message.status) else response

    def sandbox_list(self, response: bytes) -> bytes:
        """ListPodSandboxResponse."""
        if _MARK not in response:
            return response
        message = parse(pb.ListPodSandboxResponse, response)
        if message is None:
            return response
        changed = [self._restore(item) for item in message.items]
        return message.SerializeToString() if any(changed) else response

    def sandbox_stream(self, response: bytes) -> bytes:
        """One StreamPodSandboxesResponse."""
        if _MARK not in response:
            return response
        message = parse(pb.StreamPodSandboxesResponse, response)
        if message is None:
            return response
        changed = [self._restore(item) for item in message.pod_sandboxes]
        return message.SerializeToString() if any(changed) else response

    def container_event(self, response: bytes) -> bytes:
        """One ContainerEventResponse."""
        if _MARK not in response:
            return response
        message = parse(pb.ContainerEventResponse, response)
        if message is None:
            return response
        changed = self._restore(message.pod_sandbox_status)
        return message.SerializeToString() if changed else response

    def _restore(self, sandbox: pb.PodSandboxStatus | pb.PodSandbox) -> bool:
        """Show the handler that kubelet asked for; whether that changed anything."""
        theirs = self._theirs.get(sandbox.runtime_handler)
        if theirs is None or not wishes.opted_in(sandbox.annotations):
            return False
        sandbox.runtime_handler = theirs
        return True
