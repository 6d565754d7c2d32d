"""The files of one snapshot against its manifest: sizes, digests, nothing missing or added."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cri.store import pages
from shim import snapshot
from shim.errors import Broken, Unfit
from shim.memory import PAGES, SUMS
from shim.snapshot import Artifact, Manifest

_CHUNK = 1 << 20
_SECTOR = 512  # the unit of st_blocks, whatever the file system's block size


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below a folder, as relative path and ``lstat``; links are not followed.

    A folder comes after what is in it. Raises OSError when something cannot be read.
    """
    yield from _walk(folder, "")


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
        yield prefix + entry.name, status


def disk_usage(folder: Path) -> int:
    """Bytes on disk of all below a folder: holes take none, a file with many links counts once."""
    seen: dict[tuple[int, int], int] = {}
    for _, status in walk(folder):
        seen[status.st_dev, status.st_ino] = status.st_blocks * _SECTOR
    return sum(seen.values())


def check_listing(folder: Path, manifest: Manifest) -> list[str]:
    """What differs between the manifest and the files that are there, without reading them.

    One sentence for each artifact that is missing, is no regular file or has another size, and
    for each file that the manifest does not know. Empty when all is well. Unfit when the file
    system fails, as a shared one may for a while.
    """
    wanted = {artifact.path: artifact for artifact in manifest.artifacts}
    problems = []
    try:
        found = dict(walk(folder))
    except FileNotFoundError:
        return ["the snapshot's folder is not there any more"]
    except OSError as error:
        raise Unfit(f"the snapshot's folder cannot be read: {error.strerror}") from error
    for path, status in found.items():
        if stat.S_ISDIR(status.st_mode) or path == snapshot.MANIFEST:
            continue
        if not stat.S_ISREG(status.st_mode):
            problems.append(f"{path} is not a regular file")
        elif path not in wanted:
            problems.append(f"{path} is not in the manifest")
        elif status.st_size != wanted[path].size:
            problems.append(
                f"{path} was truncated or altered: "
                f"wanted {wanted[path].size} bytes, found {status.st_size}"
            )
    problems += [f"{path} is missing" for path in wanted if path not in found]
    return problems


def difference(
    folder: Path, artifact: Artifact, progress: Callable[[int], None] = lambda _: None
) -> str:
    """What is wrong with the content of an artifact, in one sentence; empty when nothing is.

    It is read, but for the holes of ``pages``; no link on the way is followed. ``progress`` is
    told how many bytes were read each time, perhaps from several threads. Raises OSError.
    """
    if artifact.path == PAGES:
        return _difference_of_pages(folder, artifact, progress)
    fd = _open(folder, artifact.path)
    hasher = hashlib.sha256()
    try:
        while chunk := os.read(fd, _CHUNK):
            hasher.update(chunk)
            progress(len(chunk))
    finally:
        os.close(fd)
    return _altered(artifact.path, artifact.sha256, hasher.hexdigest())


def _difference_of_pages(folder: Path, artifact: Artifact, progress: Callable[[int], None]) -> str:
    fd = _open(folder, SUMS)
    try:
        sums = pages.read_sums(fd)
    except Broken as error:
        return str(error)
    finally:
        os.close(fd)
    problem = _altered(SUMS, artifact.sha256, hashlib.sha256(sums).hexdigest())
    if problem:
        return problem
    fd = _open(folder, PAGES)
    try:
        return pages.check(fd, sums, holes=artifact.holes, progress=progress)
    finally:
        os.close(fd)


def _altered(path: str, wanted: str, found: str) -> str:
    if wanted == found:
        return ""
    return f"{path} was altered: wanted sha256:{wanted}, found sha256:{found}"


def _open(folder: Path, path: str) -> int:
    """Open an artifact for reading; no link on the way is followed. Raises OSError."""
    *folders, name = path.split("/")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for part in folders:
            below = os.open(
                part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at
            )
            os.close(at)
            at = below
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=at)
    finally:
        os.close(at)


def verify(
    folder: Path, manifest: Manifest, progress: Callable[[int], None] = lambda _: None
) -> list[str]:
    """Read every artifact and compare; one sentence for each difference, empty when all is well.

    Reads the whole snapshot. ``progress`` is told how many bytes were read each time.
    """
    problems = check_listing(folder, manifest)
    spoiled = {problem.split(" ", 1)[0] for problem in problems}
    for artifact in manifest.artifacts:
        if artifact.path in spoiled:
            continue
        try:
            problem = difference(folder, artifact, progress)
        except OSError as error:
            problem = f"{artifact.path} cannot be read: {error.strerror}"
        if problem and problem not in problems:
            problems.append(problem)
    return problems


def require(problems: list[str], digest: str) -> None:
    """Broken with the first of the problems, if there is one; the detail has all of several."""
    if len(problems) == 1:
        raise Broken(f"the snapshot {digest} is damaged: {problems[0]}")
    if problems:
        raise Broken(
            f"the snapshot {digest} is damaged: {problems[0]} (and {len(problems) - 1} more)",
            detail="\n".join(problems),
        )
