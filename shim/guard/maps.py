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
    found, ending = [], b" " + name + b"\n"
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
        elif ours and first == b"VmFlags:":
            words = set(rest.decode("ascii", "replace").split())
            found[-1].flags = frozenset(words.intersection(_FLAGS))
        elif ours and first == b"ProtectionKey:":
            found[-1].key = int(rest)
    return found


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
