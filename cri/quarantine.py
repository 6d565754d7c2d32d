"""Snapshots that broke on this node and are not tried again here.

``<state>/node/quarantine/<64 hex>``, one file a snapshot, which belongs to this node alone: the
store may be shared, and what breaks on one node may work on another. A snapshot that is only
unfit (another CPU, another image) is never quarantined. The node daemon writes the files when a
restore breaks; ``podthaw list`` and ``inspect`` show them, ``podthaw unquarantine`` removes them.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cri.store.refs import hex_of, is_hex
from shim.errors import Unfit

_MAX = 65536  # bytes; a reason and the end of CRIU's log are far less


@dataclass(frozen=True)
class Entry:
    """Why a snapshot is quarantined."""

    reason: str
    """One sentence."""
    time: float
    """Unix time in seconds."""
    pod: str = ""
    """``NAMESPACE/NAME`` of the pod whose restore broke."""


class Quarantine:
    """The quarantine of this node."""

    def __init__(self, state: Path) -> None:
        self.folder = state / "node" / "quarantine"
        """Where the files are; made when the first is written."""

    def put(self, digest: str, entry: Entry) -> None:
        """Quarantine a snapshot. Raises Unfit when it cannot be written."""
        path = self.folder / hex_of(digest)
        aside = path.with_name(f".{secrets.token_hex(8)}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                fd = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
                with os.fdopen(fd, "w") as file:
                    json.dump(asdict(entry), file)
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(path)
            except OSError:
                with suppress(OSError):
                    aside.unlink()
                raise
        except OSError as error:
            raise Unfit(f"{digest} cannot be quarantined: {path}: {error.strerror}") from error

    def get(self, digest: str) -> Entry | None:
        """Why a snapshot is quarantined; None when it is not.

        A file that cannot be read or understood quarantines all the same.
        """
        path = self.folder / hex_of(digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                written = os.fstat(fd).st_mtime
                data = file.read(_MAX)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Entry(f"the quarantine's file cannot be read: {error.strerror}", 0.0)
        try:
            raw = json.loads(data)
            return Entry(str(raw["reason"]), float(raw["time"]), str(raw.get("pod", "")))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return Entry("the quarantine's file gives no reason", written)

    def release(self, digest: str) -> bool:
        """Take a snapshot out of quarantine; False when it was not in it."""
        path = self.folder / hex_of(digest)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unfit(
                f"{digest} cannot leave the quarantine: {path}: {error.strerror}"
            ) from error
        return True

    def digests(self) -> list[str]:
        """All that are quarantined."""
        try:
            return sorted(f"sha256:{one.name}" for one in self.folder.iterdir() if is_hex(one.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unfit(f"{self.folder} cannot be read: {error.strerror}") from error
