"""The files of a snapshot, verified once on each node and remembered.

Reading gigabytes at each start would cost more than the restore. So every file is hashed when
the node first uses the snapshot, and a stamp of it is remembered: inode, size and both times. A
file whose stamp is the same later was not written meanwhile (its ctime cannot be set). Missing
files and sizes are checked each time, and small images are hashed each time, as that costs nothing.

The stamps lie in ``<state>/node/verified/<64 hex>.json``.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cri.store import artifacts
from cri.store.refs import hex_of
from shim.errors import Broken, Unfit
from shim.snapshot import Artifact, Manifest

_SMALL = 256 * 1024  # bytes up to which a file is hashed each time
_THREADS = 4
Stamp = list[int]


class Verifier:
    """Verification on this node; may be used from several threads."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "node" / "verified"
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def check(self, folder: Path, digest: str, manifest: Manifest) -> int:
        """Verify a snapshot; returns how many bytes were read for it.

        Broken when a file differs from the manifest, with each difference in the detail; Unfit
        when one cannot be read. Of several threads, one reads and the others wait for it.
        """
        with self._lock(digest):
            artifacts.require(artifacts.check_listing(folder, manifest), digest)
            known = self._load(digest)
            todo = [one for one in manifest.artifacts if _must_hash(folder, one, known)]
            stamps = self._hash(folder, digest, todo)
            if any(known.get(path) != stamp for path, stamp in stamps.items()):
                self._save(digest, {**known, **stamps})
            return sum(one.stored for one in todo)

    def remember(self, folder: Path, digest: str, manifest: Manifest) -> None:
        """Take a snapshot's files as verified: whoever just wrote and hashed them may say so."""
        with self._lock(digest):
            self._save(digest, {one.path: _stamp(folder / one.path) for one in manifest.artifacts})

    def forget(self, digest: str) -> None:
        """Verify the snapshot anew next time."""
        self._path(digest).unlink(missing_ok=True)

    def _hash(self, folder: Path, digest: str, todo: list[Artifact]) -> dict[str, Stamp]:
        largest_first = sorted(todo, key=lambda one: -one.stored)
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda one: _hash_one(folder, one), largest_first))
        problems = [problem for _, problem in found if problem]
        artifacts.require(list(dict.fromkeys(problems)), digest)
        return {one.path: stamp for one, (stamp, _) in zip(largest_first, found, strict=True)}

    def _lock(self, digest: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(digest, threading.Lock())

    def _path(self, digest: str) -> Path:
        return self._folder / f"{hex_of(digest)}.json"

    def _load(self, digest: str) -> dict[str, Stamp]:
        try:
            raw = json.loads(self._path(digest).read_bytes())
        except (OSError, ValueError):
            return {}
        return raw if isinstance(raw, dict) else {}

    def _save(self, digest: str, stamps: Mapping[str, Stamp]) -> None:
        path = self._path(digest)
        aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            aside.write_text(json.dumps(stamps))
            aside.replace(path)
        except OSError:
            # Not remembered is verified again: a full disk must not stop a restore.
            with suppress(OSError):
                aside.unlink()


def _must_hash(folder: Path, artifact: Artifact, known: Mapping[str, Stamp]) -> bool:
    if artifact.size <= _SMALL:
        return True
    stamp = known.get(artifact.path)
    return stamp is None or stamp != _stamp(folder / artifact.path)


def _hash_one(folder: Path, artifact: Artifact) -> tuple[Stamp, str]:
    """The stamp of a file, taken before it is read, and what is wrong with it or nothing."""
    try:
        stamp = _stamp(folder / artifact.path)
        return stamp, artifacts.difference(folder, artifact)
    except OSError as error:
        raise Unfit(
            f"the snapshot's file {artifact.path} cannot be read: {error.strerror}"
        ) from error


def _stamp(path: Path) -> Stamp:
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise Broken(f"the snapshot's file {path.name} is missing") from None
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
