"""Whether one container is restored, and the plan for it: everything that blocks, in one place.

In this order, cheapest first, and nothing of the container is touched: the name is resolved,
the quarantine and the history are looked up, the facts of host, image and command are compared,
the snapshot's files are verified, the plan is prepared. Runs in a thread of the daemon.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cri import fitness, gpu_request, gpus, history, prepare
from cri.annotations import Wish
from cri.prepare import GpuMatch, Policy, Target
from cri.proto import cri_pb2 as pb
from cri.quarantine import Entry, Quarantine
from cri.records import Records
from cri.store import Store
from cri.store.refs import shown
from cri.verify import Verifier
from shim import guard, host, snapshot
from shim.criu.rewrite import Sockets
from shim.errors import Broken, PodthawError, Unfit
from shim.plan import Plan
from shim.snapshot import HostNeeds, Manifest


class NotMeantError(Exception):
    """The pod's annotation names a snapshot, but of another of the pod's containers."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Everything about a request that the decision needs."""

    wish: Wish
    target: Target
    policy: Policy
    image_id: str
    """The id of the container's image, ``sha256:<hex>``."""
    command: Sequence[str] | None
    """What the container would run; None when containerd does not tell the image's part of it."""
    config: pb.ContainerConfig = field(default_factory=pb.ContainerConfig)
    """The request itself, which tells what GPUs it asks for."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A restore that is prepared."""

    plan: Plan
    sockets: Sockets
    read: int
    """Bytes that were read to verify the snapshot."""


def match_gpus(manifest: Manifest, config: pb.ContainerConfig) -> GpuMatch:
    """Match the snapshot's GPUs with those that the container asks for, by position.

    Where the request does not tell which ones these are, some GPUs of this host must fit. Raises
    Unfit, Broken.
    """
    wanted = [gpus.recorded(raw) for raw in manifest.gpu]
    here = gpus.read()
    if not here:
        raise Unfit(
            f"the snapshot wants GPUs ({len(wanted)} of model {shown(wanted[0].model)}), and "
            "NVIDIA's management library NVML finds none on this host"
        )
    asked = gpu_request.asked(config, here)
    fitness.check_gpus(wanted, fitness.best_gpus(wanted, here) if asked is None else asked)
    new = [""] * len(wanted) if asked is None else [gpu.uuid for gpu in asked]
    return GpuMatch(
        pairs=dict(zip((gpu.uuid for gpu in wanted), new, strict=True)),
        nodes={str(gpu.number): gpu.uuid for gpu in here},
    )


class Decider:
    """Makes the decision; may be used from several threads."""

    def __init__(self, store: Store, records: Records, state: Path, criu: str = "criu") -> None:
        self.store = store
        self.records = records
        self.quarantine = Quarantine(state)
        self.verifier = Verifier(state)
        self._criu = criu
        self._facts: tuple[object, HostNeeds] | None = None
        self._guard = threading.Lock()

    def resolve(self, namespace: str, reference: str) -> str:
        """The digest that a pod's annotation means. Raises PodthawError."""
        return self.store.resolve(namespace, reference)

    def prepare(self, plan_id: str, digest: str, ask: Ask) -> Ready:
        """Check a snapshot for a container and prepare the plan, whose directory must exist.

        The snapshot is pinned for the plan. Raises PodthawError or NotMeantError; then nothing
        is left pinned, and a snapshot that is Broken is quarantined.
        """
        self._check_quarantine(digest)
        who = self.store.plan_pin(plan_id)
        self.store.pin(digest, who)
        try:
            return self._prepare(plan_id, digest, ask)
        except BaseException as error:
            if isinstance(error, Broken):
                self.set_aside(digest, f"{ask.target.namespace}/{ask.target.pod}", str(error))
            with suppress(PodthawError):
                self.store.unpin(digest, who)
            raise

    def look(self, namespace: str, reference: str) -> tuple[str, Path]:
        """The digest and folder of the snapshot that a pod will ask for, unless it is quarantined.

        The host's facts are read here as well, since the first reading starts CRIU once.
        """
        self.host()
        digest = self.store.resolve(namespace, reference)
        self._check_quarantine(digest)
        return digest, self.store.folder(digest)

    def verify(self, digest: str, folder: Path) -> None:
        """Verify a snapshot's files, while the pod's sandbox is made."""
        self.verifier.check(folder, digest, snapshot.read(folder, digest))

    def set_aside(self, digest: str, pod: str, reason: str) -> None:
        """Quarantine a snapshot, as far as that can be written. Its files are verified anew."""
        with suppress(PodthawError, OSError):
            self.verifier.forget(digest)
            self.quarantine.put(digest, Entry(reason, time.time(), pod))

    def release(self, plan_id: str, digest: str) -> None:
        """Drop the pin of a plan, if it has one. Raises PodthawError when the store is broken."""
        if digest:
            self.store.unpin(digest, self.store.plan_pin(plan_id))

    def _prepare(self, plan_id: str, digest: str, ask: Ask) -> Ready:
        manifest = self.store.manifest(digest)
        runs = self.records.of_container(ask.target.pod_uid, ask.target.container)
        if not ask.wish.named:
            self._check_meant(digest, manifest, ask)
        history.check(runs)
        fitness.check_host(manifest.host, self.host())
        if manifest.memory == "mapped":
            fitness.check_guard(guard.supported())
        fitness.check_image(manifest.source, ask.image_id)
        if ask.command is not None:
            fitness.check_command(manifest.source, ask.command)
        match = match_gpus(manifest, ask.config) if manifest.gpu else None
        folder = self.store.folder(digest)
        read = self.verifier.check(folder, digest, manifest)
        order, sockets = prepare.prepare(
            plan_id,
            ask.target,
            ask.policy,
            name=str(ask.wish.reference),
            digest=digest,
            folder=folder,
            manifest=manifest,
            gpus=match,
            run=self.records.run,
        )
        return Ready(plan=order, sockets=sockets, read=read)

    def _check_quarantine(self, digest: str) -> None:
        entry = self.quarantine.get(digest)
        if entry is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.time))
            raise Unfit(
                f"the snapshot broke on this node at {since} UTC and is not tried again until "
                f"`podthaw unquarantine {digest}`: {entry.reason}"
            )

    def _check_meant(self, digest: str, manifest: Manifest, ask: Ask) -> None:
        """An annotation without a container's name means the container that was captured.

        CRI does not tell which containers a pod has, nor which are init containers. Where the
        captured container's name is not this one's, the same image and command still make this
        one the container that is meant, unless another in the pod was.
        """
        source, target = manifest.source, ask.target
        if source.container == target.container:
            return
        same = ask.image_id == source.image_digest and list(ask.command or ()) == source.command
        others = (
            record.decision.container
            for record in self.records.of_sandbox(target.sandbox_id)
            if record.decision.digest == digest and record.decision.choice == "restore"
        )
        if not same or any(other != target.container for other in others):
            raise NotMeantError(
                f"{ask.wish.reference} is of a container {source.container}, not of "
                f"{target.container}"
            )

    def host(self) -> HostNeeds:
        """This host's facts, read again only when CRIU is another program. Raises Unfit."""
        path = shutil.which(self._criu)
        key: object = None
        if path is not None:
            with suppress(OSError):
                status = Path(path).stat()
                key = (status.st_ino, status.st_mtime_ns)
        with self._guard:
            if self._facts is None or self._facts[0] != key:
                self._facts = (key, host.facts(self._criu))
            return self._facts[1]
