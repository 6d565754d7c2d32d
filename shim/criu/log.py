"""CRIU's log: the lines that tell of a failure, and what they mean in plain words.

A log of verbosity 4 has tens of thousands of lines. Those that matter hold ``Error (``; what
stands just before them names the process, descriptor or mount that was being worked on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

TAIL_BYTES = 1 << 20
"""How much of a log's end is read: an error is always among the last lines."""

_STAMP = re.compile(r"^\(\d+\.\d+\)\s*")
_ERROR = re.compile(r"\bError \(")

_NOISE = re.compile(
    r"Can't setup RLIMIT_NOFILE for self|Unable to create tun|"
    r"cgroupd: recv req error|pagemap-cache: Can't setup|Hugetlb size .* is supported but"
)
"""Errors that CRIU reports and goes on from."""

_FILE = re.compile(
    r"Can't open file (.+?)(?: on restore)?: No such file|"
    r"File (.+) has bad (?:size|mode|build-ID)"
)
"""Of criu/files-reg.c; the path lacks its leading slash."""

_MEANINGS: Sequence[tuple[str, str]] = (
    (r"No space left on device|Disk quota exceeded", "the disk is full"),
    (r"File too large", "CRIU was stopped at its deadline"),
    (
        (
            r"Unexpected EOF|bytes while \d+ expected (?:on|from)|Failed unpacking object|"
            r"Wrong object requested|[Mm]agic doesn't match|Img trimmed|Corrupted root cgset"
        ),
        "an image file of the snapshot is damaged",
    ),
    (
        r"Can't get rlimit .*not permitted",
        (
            "a process is another user's, and CRIU reads its limits only with CAP_SYS_RESOURCE, "
            "which root lacks on this node"
        ),
    ),
    (
        r"anon_inode:\[io_uring\]",
        (
            "a process uses io_uring, which CRIU cannot capture; give the pod the seccompProfile "
            "RuntimeDefault, or switch io_uring off in the program"
        ),
    ),
    (r"Can't dump file .* of that type .*\(chr ", "a process has a device file open"),
    (r"Can't dump file .* of that type", "a process has a file open that CRIU cannot capture"),
    (
        r"Unable to freeze cgroup",
        "a process could not be frozen in time; it may wait for a disk or a network file system",
    ),
    (r"Can't dump nested", "a process runs in namespaces of its own"),
    (r"[Nn]ested mount namespaces", "a process runs in a mount namespace of its own"),
    (
        (
            r"doesn't have a proper root mount|FS mnt .* unsupported|No root found for tree|"
            r"Can't mount .* unsupported|fs ?type .* (is )?(not|un)supported"
        ),
        "the container has a mount that CRIU cannot capture",
    ),
    (
        r"No mapping for \d+:\S+ mountpoint",
        "a mount of the snapshot is missing in the new container",
    ),
    (r"Can't stat mountpoint|Can't stat on ", "a mount point of the snapshot is missing"),
    (
        r"external socket|External socket|unreachable peer|Dangling connection",
        "a unix socket is connected to a process outside the container",
    ),
    (r"Unsupported proto", "a socket uses a protocol that CRIU cannot capture"),
    (r"Unknown socket collected", "a socket of a family that CRIU cannot capture is open"),
    (r"In-flight connection", "a connection was being opened at the moment of the capture"),
    (r"Connected TCP socket", "an open TCP connection was met and CRIU was told of no policy"),
    (
        r"Can't lookup mount=|Can't dump ghost file|larger than limit",
        "a deleted file that is still open could not be saved",
    ),
    (r"Can't dump that handle", "a watched file (inotify) could not be found by its inode"),
    (r"already in use|EADDRINUSE|Address already in use", "an address or port is in use"),
    (
        r"Can't bind inet socket|Cannot assign requested address",
        "an address of the snapshot does not exist in the new pod",
    ),
    (r"Can't fork for \d+.*(File exists|exists)", "a process id of the snapshot is in use"),
    (r"File .* has bad size", "a file differs in size from the one at the capture"),
    (r"File .* has bad build-ID|has bad mode", "a file differs from the one at the capture"),
    (
        r"Can't open file .*No such file|Can't open .* on restore",
        "a file that was open at the capture is missing",
    ),
    (r"[Ii]ptables.*failed|Locking network failed", "the firewall tool failed to hold connections"),
    (r"CPU|cpu.*features|FPU.*feature", "the processor lacks a feature that the snapshot uses"),
    (r"ptrace.*Operation not permitted", "a process is being debugged"),
    (r"Can't set .*cgroup|cgroup.*Permission denied", "the cgroup could not be set up"),
    (r"Operation not permitted", "CRIU lacks a privilege"),
    (r"Cannot allocate memory|Out of memory", "memory ran out"),
    (
        r"killed by signal 9",
        "a process was killed while it was restored; the memory limit may be too small",
    ),
)


def read_tail(path: str | Path, size: int = TAIL_BYTES) -> list[str]:
    """The last ``size`` bytes of a log as lines; an absent log has none."""
    try:
        with open(path, "rb") as file:
            length = file.seek(0, 2)
            file.seek(max(0, length - size))
            data = file.read()
    except OSError:
        return []
    lines = data.decode(errors="replace").splitlines()
    return lines[1:] if length > size else lines


def failure_lines(lines: Sequence[str], *, before: int = 2, limit: int = 12) -> list[str]:
    """The lines that tell of a failure: each ``Error (`` line with its neighbours above.

    Without any error the last lines are all there is to tell. At most ``limit`` lines: the first
    ones, which hold the cause, and the last ones; without time stamps.
    """
    picked: list[int] = []
    for index, line in enumerate(lines):
        if _is_error(line):
            picked.extend(range(max(0, index - before), index + 1))
    indices = sorted(set(picked)) or range(max(0, len(lines) - 5), len(lines))
    told = [_STAMP.sub("", lines[index]).rstrip() for index in indices]
    first = limit // 2 if len(told) > limit else 0
    return told[:first] + told[first - limit :]


def tail(path: str | Path, *, limit: int = 12) -> list[str]:
    """:func:`failure_lines` of a log file."""
    return failure_lines(read_tail(path), limit=limit)


def explain(lines: Iterable[str]) -> str:
    """What the failure is, in plain words; ``""`` for one that is not known.

    The first error in a log is the cause and the later ones its consequences, so the first line
    that is understood decides.
    """
    for line in lines:
        if not _is_error(line):
            continue
        for pattern, meaning in _MEANINGS:
            if re.search(pattern, line):
                path = file_of(line)
                return f"{meaning}: {path}" if path else meaning
    return ""


def file_of(line: str) -> str:
    """The path inside the container of a file that is not as it was; ``""`` if none is named."""
    found = _FILE.search(line)
    return os.path.normpath("/" + (found[1] or found[2])) if found else ""


def _is_error(line: str) -> bool:
    return bool(_ERROR.search(line)) and not _NOISE.search(line)
