"""Which record belongs to which container and sandbox: an index of the files, in memory."""

from __future__ import annotations

from cri.records import Record


class Index:
    """Looks records up by the ids that CRI calls carry."""

    def __init__(self) -> None:
        self._containers: dict[str, str] = {}
        self._sandboxes: dict[str, set[str]] = {}

    def add(self, record: Record) -> None:
        """Take a record in; one without a container is known by its sandbox only."""
        self._sandboxes.setdefault(record.decision.sandbox_id, set()).add(record.decision.id)
        if record.container_id:
            self._containers[record.container_id] = record.decision.id

    def remove(self, record: Record) -> None:
        """Forget a record."""
        self.remove_container(record.container_id)
        sandbox = self._sandboxes.get(record.decision.sandbox_id)
        if sandbox is not None:
            sandbox.discard(record.decision.id)
            if not sandbox:
                del self._sandboxes[record.decision.sandbox_id]

    def remove_container(self, container: str) -> None:
        """Forget a container; its record stays known by its sandbox."""
        self._containers.pop(container, None)

    def remove_sandbox(self, sandbox: str) -> None:
        """Forget a sandbox and all of its containers."""
        gone = self._sandboxes.pop(sandbox, set())
        self._containers = {key: one for key, one in self._containers.items() if one not in gone}

    def of_container(self, container: str) -> str | None:
        """The id of the record of a container, or None."""
        return self._containers.get(container)

    def of_sandbox(self, sandbox: str) -> tuple[str, ...]:
        """The ids of all records of a sandbox."""
        return tuple(self._sandboxes.get(sandbox, ()))
