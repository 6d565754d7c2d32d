"""The snapshot store: one folder, which may lie on a file system that several nodes share.

snapshots/<64 hex>/          a published snapshot, never changed
names/<namespace>/<name>     a name: the file holds ``sha256:<64 hex>``
pins/<64 hex>/<who>          what keeps a snapshot from being removed
used/<64 hex>                its time says when a restore last used the snapshot
tmp/                         what is being built or removed
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cri.store import artifacts, gc, leftovers, publication, removal
from cri.store.entry import Snapshot
from cri.store.files import PINS, SNAPSHOTS, USED, Area
from cri.store.gc import Policy, Removal
from cri.store.leftovers import Leftovers
from cri.store.lookup import Found, Lookup
from cri.store.names import Names
from cri.store.pins import USER, Pins, in_use
from cri.store.refs import (
    check_name,
    check_namespace,
    hex_of,
    is_hex,
)
from cri.store.removal import Force
from shim import snapshot
from shim.errors import Broken, PodthawError, Refused, Unfit
from shim.snapshot import Manifest


@dataclass(frozen=True)
class Collected:
    """What a garbage collection did, or would do."""

    removals: list[Removal]
    swept: list[str]
    """Leftovers that went: paths relative to the store."""
    kept: list[str]
    """A sentence for each thing that could not be removed."""


class Store:
    """All operations on a snapshot store.

    Namespaces, names, digests and references may come from anybody; each is checked here. All
    methods raise :class:`shim.errors.PodthawError` with a sentence, also for a store that is
    absent, read-only or full.
    """

    def __init__(
        self, root: Path, *, node: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._area = Area(root.absolute(), node)
        self._names = Names(self._area)
        self._pins = Pins(self._area, clock)
        self._lookup = Lookup(self._area, self._names)
        self._clock = clock

    @property
    def root(self) -> Path:
        """The store's folder, absolute."""
        return self._area.root

    @property
    def node(self) -> str:
        """This node's name as pins have it."""
        return self._area.node

    def exists(self) -> bool:
        """Whether there is a folder where the store belongs."""
        return self._area.is_there()

    def create(self) -> None:
        """Make the store's folders where they are missing."""
        self._area.create()

    # Publication

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """A private empty folder inside the store to build a snapshot in.

        Publish it inside the block; what is not published is removed at its end.
        """
        with publication.stage(self._area) as folder:
            yield folder

    def publish(self, stage: Path, manifest: bytes) -> str:
        """Publish a staged folder; returns the digest of the manifest's bytes.

        The folder holds the manifest's artifacts and nothing else. A snapshot that is there
        already is success.
        """
        return publication.publish(self._area, stage, manifest)

    # Lookup

    def resolve(self, namespace: str, reference: str) -> str:
        """The digest that ``NAME`` or ``NAME@sha256:<hex>`` means in a namespace, and only there.

        Unfit when there is no such name, it points to another digest than the one asked for, or
        to a snapshot that is gone; Refused when the reference is malformed.
        """
        return self._lookup.resolve(namespace, reference)

    def find(self, reference: str, namespace: str | None = None) -> Found:
        """What a person on the node means: a name, or a full or short digest.

        Unlike :meth:`resolve` it finds all namespaces' snapshots by digest, so it is never for
        what a pod asks.
        """
        return self._lookup.find(reference, namespace)

    def folder(self, digest: str) -> Path:
        """The folder of a snapshot; Unfit when there is none, Broken when it is no real folder."""
        return self._lookup.folder(digest)

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a snapshot, its digest checked; Broken when it was altered."""
        return snapshot.read(self.folder(digest), digest)

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, newest first, damaged ones too."""
        self._area.require()
        names: dict[str, list[tuple[str, str]]] = {}
        for name, digest in self._names.all()[0].items():
            names.setdefault(digest, []).append(name)
        found = []
        with self._area.sentences("be listed"):
            for entry in self._area.entries(SNAPSHOTS):
                if is_hex(entry):
                    one = self._entry(f"sha256:{entry}", tuple(names.get(f"sha256:{entry}", ())))
                    found += [one] if one else []
        return sorted(found, key=lambda one: (-one.published, one.digest))

    def get(self, digest: str) -> Snapshot | None:
        """What is known of one snapshot; None when it is not there."""
        names = [key for key, target in self._names.all()[0].items() if target == digest]
        with self._area.sentences(f"read the snapshot {digest}"):
            return self._entry(digest, tuple(names))

    def problems(self) -> list[str]:
        """What lies in the store that does not belong there or leads nowhere, a sentence each."""
        names, problems = self._names.all()
        with self._area.sentences("be listed"):
            entries = set(self._area.entries(SNAPSHOTS))
        problems += [
            f"snapshots/{entry!r} in the store is not a snapshot's folder"
            for entry in sorted(entries)
            if not is_hex(entry)
        ]
        problems += [
            f"the name {namespace}/{name} points to {digest}, which is not in the store"
            for (namespace, name), digest in sorted(names.items())
            if hex_of(digest) not in entries
        ]
        return problems

    # Names

    def names(self, namespace: str | None = None) -> dict[tuple[str, str], str]:
        """``{(namespace, name): digest}`` of one or all namespaces; malformed entries left out."""
        if namespace is not None:
            check_namespace(namespace)
        return {
            key: digest
            for key, digest in self._names.all()[0].items()
            if namespace in (None, key[0])
        }

    def set_name(self, namespace: str, name: str, digest: str) -> str | None:
        """Point a name to a snapshot of the store; returns what it pointed to before, if anything.

        Unfit when the snapshot is not there or is being removed.
        """
        self.folder(digest)
        check_namespace(namespace)
        check_name(name)
        before: str | None = None
        with suppress(Refused):  # a spoiled entry is replaced
            before = self._names.get(namespace, name)
        self._names.set(namespace, name, digest)
        try:
            self._pins.require_staying(digest)
            self.folder(digest)
        except Unfit:
            if before is None:
                self._names.remove(namespace, name)
            else:
                self._names.set(namespace, name, before)
            raise
        return before

    def remove_name(self, namespace: str, name: str) -> None:
        """Remove a name; the snapshot stays. Unfit when there is no such name."""
        if not self._names.remove(namespace, name):
            self._area.require()
            raise Unfit(f"there is no snapshot {name} in the namespace {namespace}")

    # Pins

    def pin(self, digest: str, who: str = USER) -> None:
        """Keep a snapshot from being removed; for a restore, also note the use.

        ``who`` is ``user`` or :meth:`plan_pin`. Unfit when the snapshot is not there or is being
        removed: a restore pins first and opens then.
        """
        self._pins.add(digest, who)
        if in_use(who):
            self.touch(digest)

    def unpin(self, digest: str, who: str = USER) -> bool:
        """Remove a pin; False when there was none."""
        return self._pins.drop(digest, who)

    def pins(self, digest: str) -> list[str]:
        """Who pins a snapshot."""
        return self._pins.of(digest)

    def plan_pin(self, plan_id: str) -> str:
        """The name of the pin of this node's restore with that plan."""
        return self._pins.who(plan_id)

    def touch(self, digest: str) -> None:
        """Note that the snapshot is used now. Never fails: a full disk must not stop a restore."""
        name = hex_of(digest)
        with suppress(OSError, PodthawError), self._area.folder(USED, create=True) as used:
            flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=used)
            try:
                os.utime(fd)
            finally:
                os.close(fd)

    # Removal

    def remove(
        self,
        digest: str,
        *,
        names: Collection[tuple[str, str]] = (),
        force: Force = Force(),  # noqa: B008 - immutable
    ) -> None:
        """Remove a snapshot, with the given names that point to it.

        Refused while another name points to it, a person pinned it, or restores from it are
        under way, unless ``force`` says otherwise. Unfit when there is none.
        """
        with suppress(Broken):  # what is no folder can be removed all the same
            self.folder(digest)
        removal.remove(self._area, self._names, self._pins, digest, going=names, force=force)

    def gc(
        self, policy: Policy, *, dry_run: bool = False, plans: Collection[str] | None = None
    ) -> Collected:
        """Collect garbage: leftovers, snapshots without a name, and what exceeds the limits.

        ``plans`` are the ids of this node's living plans: pins of others that this node left are
        dropped; None leaves all pins. With ``dry_run`` nothing changes, and the answer says what
        would.
        """
        self._area.require()
        now = self._clock()
        left = Leftovers(self._area, self._names, self._pins, now)
        stale = [] if plans is None else left.stale_pins(plans)
        remains = left.all()
        snapshots = [
            replace(one, pins=tuple(who for who in one.pins if (one.digest, who) not in stale))
            for one in self.snapshots()
        ]
        steps = gc.choose(snapshots, policy, now)
        swept = [f"{PINS}/{hex_of(digest)}/{who}" for digest, who in stale]
        swept += ["/".join(parts) for parts in remains]
        if dry_run:
            return Collected(steps, swept, [])
        for digest, who in stale:
            self._pins.drop(digest, who)
        kept = [problem for parts in remains if (problem := self._discard(parts))]
        done = []
        for step in steps:
            try:
                self._carry_out(step)
            except PodthawError as error:
                kept.append(str(error))
            else:
                done.append(step)
        return Collected(done, swept, kept)

    # Parts of the above

    def _entry(self, digest: str, names: tuple[tuple[str, str], ...]) -> Snapshot | None:
        name = hex_of(digest)
        status = self._area.status(SNAPSHOTS, name)
        if status is None:
            return None
        manifest, problem, disk = None, "", 0
        folder = self.root / SNAPSHOTS / name
        try:
            manifest = snapshot.read(self.folder(digest), digest)
            problems = artifacts.check_listing(folder, manifest)
            problem = problems[0] if problems else ""
            disk = artifacts.disk_usage(folder)
        except PodthawError as error:
            problem = str(error)
            with suppress(OSError):
                disk = artifacts.disk_usage(folder) if stat.S_ISDIR(status.st_mode) else 0
        except OSError as error:
            problem = f"its files cannot be read: {error.strerror}"
        used = self._area.status(USED, name)
        return Snapshot(
            digest=digest,
            folder=folder,
            names=tuple(sorted(names)),
            pins=tuple(self._pins.of(digest)),
            published=status.st_mtime,
            used=max(status.st_mtime, used.st_mtime if used else 0.0),
            disk=disk,
            manifest=manifest,
            problem=problem,
        )

    def _carry_out(self, step: Removal) -> None:
        if step.whole:
            self.remove(step.digest, names=step.names)
            return
        for namespace, name in step.names:
            if self._names.get(namespace, name) == step.digest:
                self._names.remove(namespace, name)

    def _discard(self, parts: tuple[str, ...]) -> str:
        try:
            leftovers.discard(self._area, *parts)
        except OSError as error:
            return str(self._area.explain(error, f"remove {'/'.join(parts)}"))
        return ""
