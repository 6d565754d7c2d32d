"""From what is written to a snapshot: names, digests and their first digits."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from cri.store.files import SNAPSHOTS, Area
from cri.store.names import Names
from cri.store.refs import Reference, check_namespace, hex_of, is_hex, short_hex, shown
from shim.errors import Broken, PodthawError, Refused, Unfit

_LISTED = 10


@dataclass(frozen=True)
class Found:
    """The snapshot that a reference means."""

    digest: str
    namespace: str | None = None
    """With ``name``: the name by which it was found; None when it was found by its digest."""
    name: str | None = None


class Lookup:
    """Finds snapshots of one store."""

    def __init__(self, area: Area, names: Names) -> None:
        self._area = area
        self._names = names

    def resolve(self, namespace: str, reference: str) -> str:
        """The digest that ``NAME`` or ``NAME@sha256:<hex>`` means in a namespace, and only there.

        Unfit when there is no such name, it points to another digest than the one asked for, or
        to a snapshot that is gone; Refused when the reference is malformed.
        """
        check_namespace(namespace)
        wanted = Reference.parse(reference)
        found = self._names.get(namespace, wanted.name)
        if found is None:
            self._area.require()
            raise Unfit(f"there is no snapshot {wanted.name} in the namespace {namespace}")
        if wanted.digest not in (None, found):
            raise Unfit(
                f"the snapshot {wanted.name} in the namespace {namespace} is another one: "
                f"wanted {wanted.digest}, found {found}"
            )
        self.folder(found)
        return found

    def find(self, reference: str, namespace: str | None = None) -> Found:
        """What a person on the node means: a name, or a full or short digest.

        ``NAMESPACE/NAME`` (also with ``@sha256:<hex>``), ``NAME`` in ``namespace``, or six and more
        hexadecimal digits, with or without ``sha256:`` before them. Unlike :meth:`resolve` it
        finds all namespaces' snapshots by digest, so it is never for what a pod asks.
        """
        self._area.require()
        before, slash, rest = reference.partition("/")
        if slash:
            if namespace not in (None, before):
                raise Refused(f"{shown(reference)} is not in the namespace {namespace}")
            return Found(self.resolve(before, rest), before, Reference.parse(rest).name)
        if namespace is not None and not reference.startswith("sha256:"):
            name = Reference.parse(reference).name
            if self._names.get(namespace, name) is not None or short_hex(reference) is None:
                return Found(self.resolve(namespace, reference), namespace, name)
        digits = short_hex(reference)
        if digits is not None:
            return Found(self._by_digits(digits))
        raise self._no_namespace(reference)

    def folder(self, digest: str) -> Path:
        """The folder of a snapshot; Unfit when there is none, Broken when it is no real folder."""
        name = hex_of(digest)
        with self._area.sentences(f"look for the snapshot {digest}"):
            status = self._area.status(SNAPSHOTS, name)
        if status is None:
            self._area.require()
            raise Unfit(f"there is no snapshot {digest} in the store {self._area.root}")
        if not stat.S_ISDIR(status.st_mode):
            raise Broken(
                f"the snapshot {digest} in the store {self._area.root} is not a folder: "
                "remove it by hand"
            )
        return self._area.root / SNAPSHOTS / name

    def _by_digits(self, digits: str) -> str:
        with self._area.sentences("be listed"):
            entries = self._area.entries(SNAPSHOTS)
        found = [one for one in entries if is_hex(one) and one.startswith(digits)]
        if not found:
            raise Unfit(f"there is no snapshot sha256:{digits} in the store {self._area.root}")
        if len(found) > 1:
            raise Refused(
                f"{len(found)} snapshots begin with sha256:{digits}: wanted one, "
                f"found {', '.join(one[: len(digits) + 6] for one in found[:_LISTED])}"
            )
        return f"sha256:{found[0]}"

    def _no_namespace(self, reference: str) -> PodthawError:
        name = Reference.parse(reference).name
        names = self._names.all()[0]
        where = sorted({namespace for namespace, other in names if other == name})
        if not where:
            return Unfit(f"there is no snapshot {name} in any namespace")
        return Refused(
            f"{name} needs a namespace: wanted NAMESPACE/NAME, "
            f"found {', '.join(f'{one}/{name}' for one in where[:_LISTED])}"
        )
