"""What a process has mapped: the areas of the snapshot's file in it, from /proc/PID/maps.

Source: proc_pid_maps(5), proc_pid_smaps(5).
"""

from __future__ import annotations

from shim.record import record

READ, WRITE, EXECUTE = 1, 2, 4
"""PROT_* of mmap(2)."""

_FLAGS = ("lo", "nr", "dc", "dd", "hg", "nh", "mg", "wf")


@record()
class Area:
    """One line of /proc/PID/maps that maps the file, and what smaps says about it."""

    start: int
    end: int
    """Bytes; after the last."""
    prot: int
    flags: frozenset[str] = frozenset()
    """Those of ``VmFlags`` that a mapping in its place must get again; see :func:`details`."""
    key: int = 0
    """Its protection key (pkeys(7))."""


def areas(text: bytes, name: bytes) -> tuple[list[Area], int]:
    """The private mappings of the file ``name`` in /proc/PID/maps, and how many lines it has."""
    found: list[Area] = []
    ending = b" " + name + b"\n"
    if ending not in text:
        return found, text.count(b"\n")
    lines = text.splitlines(keepends=True)
    for line in lines:
        if not line.endswith(ending):
            continue
        addresses, mode, _ = line.split(b" ", 2)
        if mode[3:4] != b"p":
            continue
        start, end = _addresses(addresses)
        found.append(Area(start, end, _prot(mode)))
    return found, len(lines)


def first_is(text: bytes, name: bytes, start: int, end: int) -> bool:
    """Whether the first mapping in a range is a private one of the file ``name``."""
    for line in text.splitlines():
        addresses, mode, _ = line.split(b" ", 2)
        at, after = _addresses(addresses)
        if after > start:
            return at < end and line.endswith(b" " + name) and mode[3:4] == b"p"
    return False


def inside(found: list[Area], start: int, end: int) -> list[Area]:
    """Those of the areas that lie in a range, cut to it."""
    return [
        Area(max(one.start, start), min(one.end, end), one.prot, flags=one.flags, key=one.key)
        for one in found
        if one.start < end and start < one.end
    ]


def details(text: bytes, name: bytes) -> list[Area]:
    """The same areas from /proc/PID/smaps, with their flags and protection key."""
    found: list[Area] = []
    ours = False
    ending = b" " + name
    for line in text.splitlines():
        first, _, rest = line.partition(b" ")
        if not first.endswith(b":"):
            ours = line.endswith(ending) and rest[3:4] == b"p"
            if ours:
                start, end = _addresses(first)
                found.append(Area(start, end, _prot(rest)))
        elif ours:
            _describe(found[-1], first, rest)
    return found


def described(found: list[Area], known: list[Area]) -> list[Area] | None:
    """Areas with the flags and keys of those that they are parts of; both lists are sorted.

    None when one is no part of any: the kernel has joined what was apart when ``known`` was read.
    """
    full, at = [], 0
    for area in found:
        while at < len(known) and known[at].end <= area.start:
            at += 1
        if at == len(known) or area.start < known[at].start or known[at].end < area.end:
            return None
        full.append(Area(area.start, area.end, area.prot, known[at].flags, known[at].key))
    return full


def _describe(area: Area, key: bytes, value: bytes) -> None:
    """Add what one line of smaps says about an area."""
    if key == b"VmFlags:":
        area.flags = frozenset(value.decode("ascii", "replace").split()).intersection(_FLAGS)
    elif key == b"ProtectionKey:":
        area.key = int(value)


def whole(text: bytes, name: bytes, start: int, end: int) -> Area | None:
    """A range as one area, where it is in pieces and could be one.

    Its mappings, at least two, must follow each other, be private, anonymous or of the file
    ``name``, and agree in all that an area is. ``text`` is that of /proc/PID/maps or smaps.
    """
    found: list[Area] = []
    for line in text.splitlines():
        first, _, rest = line.partition(b" ")
        if not first.endswith(b":"):
            at, after = _addresses(first)
            if after <= start:
                continue
            if at >= end:
                break
            words = rest.split(None, 4)
            named = words[4] if len(words) == 5 else b""
            plain = words[3] == b"0" and (not named or named.startswith((b"[heap]", b"[anon:")))
            if rest[3:4] != b"p" or not (plain or named == name):
                return None
            found.append(Area(max(at, start), min(after, end), _prot(rest)))
        elif found:
            _describe(found[-1], first, rest)
    at = start
    for area in found:
        like = (area.prot, area.flags, area.key)
        if area.start != at or like != (found[0].prot, found[0].flags, found[0].key):
            return None
        at = area.end
    if at != end or len(found) < 2:
        return None
    return Area(start, end, found[0].prot, found[0].flags, found[0].key)


def number(status: bytes, key: bytes) -> int:
    """A number of /proc/PID/status; 0 when it is not there."""
    _, found, rest = status.partition(b"\n" + key + b":")
    return int(rest.split(None, 1)[0]) if found else 0


def _addresses(word: bytes) -> tuple[int, int]:
    start, _, end = word.partition(b"-")
    return int(start, 16), int(end, 16)


def _prot(mode: bytes) -> int:
    return sum(
        bit
        for bit, letter, at in ((READ, b"r", 0), (WRITE, b"w", 1), (EXECUTE, b"x", 2))
        if mode[at : at + 1] == letter
    )
