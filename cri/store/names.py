"""Names of snapshots: ``names/<namespace>/<name>`` holds the digest that the name points to."""

from __future__ import annotations

from cri.store.files import NAMES, Area
from cri.store.refs import check_name, check_namespace, is_digest, is_namespace
from shim.errors import PodthawError, Refused


class Names:
    """All names of one store. A name is replaced and removed atomically."""

    def __init__(self, area: Area) -> None:
        self._area = area

    def get(self, namespace: str, name: str) -> str | None:
        """The digest that a name points to, or None when there is no such name.

        Refused when the name is malformed, or its entry in the store is not a plain file that
        holds a digest.
        """
        check_namespace(namespace)
        check_name(name)
        with self._area.sentences(f"read the name {namespace}/{name}"):
            data = self._area.read(NAMES, namespace, name)
        if data is None:
            return None
        digest = data.decode("ascii", "replace").strip()
        if not is_digest(digest):
            raise Refused(
                f"the name {namespace}/{name} in the store {self._area.root} holds no digest: "
                "set it again with `podthaw tag`"
            )
        return digest

    def set(self, namespace: str, name: str, digest: str) -> None:
        """Make a name point to a digest, in place of what it pointed to before."""
        check_namespace(namespace)
        check_name(name)
        with self._area.sentences(f"set the name {namespace}/{name}"):
            self._area.write(f"{digest}\n".encode(), NAMES, namespace, name)

    def remove(self, namespace: str, name: str) -> bool:
        """Remove a name; False when there was none."""
        check_namespace(namespace)
        check_name(name)
        with self._area.sentences(f"remove the name {namespace}/{name}"):
            return self._area.unlink(NAMES, namespace, name)

    def all(self) -> tuple[dict[tuple[str, str], str], list[str]]:
        """Every good name as ``{(namespace, name): digest}``, and a sentence for each bad one."""
        found: dict[tuple[str, str], str] = {}
        problems: list[str] = []
        with self._area.sentences("be read"):
            namespaces = self._area.entries(NAMES)
        for namespace in namespaces:
            if not is_namespace(namespace):
                problems.append(f"names/{namespace!r} in the store is not a namespace")
                continue
            try:
                with self._area.sentences(f"list the names of {namespace}"):
                    names = self._area.entries(NAMES, namespace)
            except PodthawError as error:
                problems.append(str(error))
                continue
            for name in names:
                try:
                    digest = self.get(namespace, name)
                except PodthawError as error:
                    problems.append(str(error))
                    continue
                if digest is not None:
                    found[namespace, name] = digest
        return found, problems
