"""The filter in CRIU's images: put in after a dump, taken out of the dump of a restored container.

CRIU keeps one list of filters, ``seccomp.img``; a thread names the first one that is installed,
and each filter the one after it (``prev``, which is the order of the dump). Flags are passed on to
seccomp(2) as they stand. When all threads of a process have the same filters, CRIU gives them to
the first thread alone, to be shared by TSYNC, and the others have none. Sources: seccomp.proto and
core.proto in images/, criu/seccomp.c, criu/pie/restorer.c of CRIU 4.2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken
from shim.guard import filter as bpf

SECCOMP = "seccomp.img"
_PSTREE = "pstree.img"
_MAGIC = 0x64413049

# seccomp_entry, seccomp_filter
_FILTERS = 1
_PROGRAM, _NEXT, _FLAGS = 1, 2, 3
# core_entry, task_core_entry, thread_core_entry
_TASK, _THREAD = 3, 5
_STATE = 1
_MODE, _FILTER = 11, 12
_MODE_FILTER = 2
_DEAD = (2, 6)
"""TASK_DEAD and TASK_ZOMBIE (criu/include/pid.h)."""
# pstree_entry
_PID, _THREADS = 1, 5

_TSYNC, _SPEC_ALLOW, _NEW_LISTENER, _TSYNC_ESRCH = 1, 1 << 2, 1 << 3, 1 << 4
"""SECCOMP_FILTER_FLAG_*. Without SPEC_ALLOW, kernels before 5.16 slow down a process that had no
filter at all (PR_SPEC_STORE_BYPASS, PR_SPEC_INDIRECT_BRANCH); TSYNC together with a listener needs
TSYNC_ESRCH."""


def add(folder: Path, ranges: Iterable[tuple[int, int]]) -> None:
    """See :func:`shim.guard.add`."""
    spans = list(ranges)
    if spans:
        _write(folder, added(_read(folder), bpf.build(spans)))


def strip(folder: Path) -> bool:
    """See :func:`shim.guard.strip`."""
    changed = stripped(_read(folder))
    _write(folder, changed)
    return bool(changed)


def added(files: Mapping[str, bytes], program: bytes) -> dict[str, bytes]:
    """The images that change when every live process gets a filter, installed last.

    ``files``: name → content of pstree.img, every core-*.img and, where it is, seccomp.img.
    Raises Broken.
    """
    image, entry, filters = _filters(files)
    if any(bpf.is_ours(one.blob(_PROGRAM)) for one in filters):
        raise Broken(
            f"{SECCOMP} holds a filter of Podthaw already, which should have been taken out"
        )
    changed: dict[str, bytes] = {}
    appended: dict[int, int] = {}
    for leader, others in _processes(files):
        chain = _chain(filters, leader.first)
        shared = not any(core.first is not None for core in others) and all(
            filters[at].uint(_FLAGS) & _TSYNC for at in chain
        )
        alone = not others
        flags = _NEW_LISTENER | _SPEC_ALLOW
        if shared and not alone:
            flags |= _TSYNC | _TSYNC_ESRCH
        for core in (leader, *([] if shared else others)):
            core.first = _append(filters, core.first, program, flags, appended)
            changed[core.name] = core.encode()
    changed[SECCOMP] = _encode(image, entry, filters)
    return changed


def stripped(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The images that change when every filter of ours is taken out. Raises Broken."""
    image, entry, filters = _filters(files)
    ours = {at for at, one in enumerate(filters) if bpf.is_ours(one.blob(_PROGRAM))}
    if not ours:
        return {}
    changed: dict[str, bytes] = {}
    kept = [at for at in range(len(filters)) if at not in ours]
    place = {at: new for new, at in enumerate(kept)}

    def after(at: int | None) -> int | None:
        """The first of a chain from ``at`` on that is kept, by its new number."""
        for one in _chain(filters, at):
            if one not in ours:
                return place[one]
        return None

    following = [after(_next(filters[at])) for at in kept]
    for leader, others in _processes(files):
        for core in (leader, *others):
            if core.first is None:
                continue
            core.first = after(core.first)
            changed[core.name] = core.encode()
    for at, new in zip(kept, following, strict=True):
        if new is None:
            filters[at].remove(_NEXT)
        else:
            filters[at].set_uint(_NEXT, new)
    changed[SECCOMP] = _encode(image, entry, [filters[at] for at in kept])
    return changed


class _Core:
    """The image of one thread."""

    def __init__(self, files: Mapping[str, bytes], tid: int) -> None:
        self.name = f"core-{tid}.img"
        if self.name not in files:
            raise Broken(f"{_PSTREE} names thread {tid}, and there is no {self.name}")
        self._image = images.decode(files[self.name], self.name)
        if images.NAMES[self._image.magic] != "core" or len(self._image.entries) != 1:
            raise Broken(f"{self.name} should hold one thread, found {len(self._image.entries)}")
        self._message = Message.parse(self._image.entries[0].message)
        self._thread = self._message.message(_THREAD)
        state = self._message.message(_TASK).uint(_STATE)
        self.dead = _THREAD not in self._message or state in _DEAD
        filtered = self._thread.uint(_MODE) == _MODE_FILTER
        self.first = self._thread.uint(_FILTER) if filtered else None
        """Number of the filter that is installed first, or None."""

    def encode(self) -> bytes:
        """The image with ``first`` as it is now."""
        if self.first is None:
            self._thread.remove(_MODE)
            self._thread.remove(_FILTER)
        else:
            self._thread.set_uint(_MODE, _MODE_FILTER)
            self._thread.set_uint(_FILTER, self.first)
        self._message.set_message(_THREAD, self._thread)
        self._image.entries[0].message = self._message.encode()
        return images.encode(self._image)


def _append(
    filters: list[Message], first: int | None, program: bytes, flags: int, known: dict[int, int]
) -> int:
    """Put our filter at the end of a chain, and return where the chain begins.

    ``known``: last filter of a chain → ours that follows it; chains that threads share stay shared.
    """
    chain = _chain(filters, first)
    if chain and chain[-1] in known:
        return chain[0]
    ours = Message()
    ours.set_bytes(_PROGRAM, program)
    ours.set_uint(_FLAGS, flags)
    filters.append(ours)
    at = len(filters) - 1
    if not chain:
        return at
    filters[chain[-1]].set_uint(_NEXT, at)
    known[at] = at
    return chain[0]


def _chain(filters: list[Message], first: int | None) -> list[int]:
    """Numbers of the filters that a thread installs, in that order."""
    found: list[int] = []
    at = first
    while at is not None:
        if at >= len(filters) or at in found:
            raise Broken(f"{SECCOMP} is damaged: a chain of filters in it leads to number {at}")
        found.append(at)
        at = _next(filters[at])
    return found


def _next(one: Message) -> int | None:
    return one.uint(_NEXT) if _NEXT in one else None


def _processes(files: Mapping[str, bytes]) -> list[tuple[_Core, list[_Core]]]:
    """The first thread of every live process, and its others.

    The thread that CRIU names for a zombie is any number: it sets none, and writes what was in
    memory there (collect_threads in criu/seize.c).
    """
    if _PSTREE not in files:
        raise Broken(f"there is no {_PSTREE}")
    found = []
    for one in images.decode(files[_PSTREE], _PSTREE).entries:
        message = Message.parse(one.message)
        pid = message.uint(_PID)
        leader = _Core(files, pid)
        if not leader.dead:
            tids = (tid for tid in message.uints(_THREADS) if tid != pid)
            found.append((leader, [_Core(files, tid) for tid in tids]))
    return found


def _filters(files: Mapping[str, bytes]) -> tuple[images.Image, Message, list[Message]]:
    """seccomp.img, its only message and the filters in it; empty ones when there is no file."""
    header = b"".join(number.to_bytes(4, "little") for number in (images.COMMON_MAGIC, _MAGIC))
    image = images.decode(files.get(SECCOMP, header), SECCOMP)
    if image.magic != _MAGIC or len(image.entries) > 1:
        raise Broken(f"{SECCOMP} should hold one list of filters, found {len(image.entries)}")
    entry = Message.parse(image.entries[0].message if image.entries else b"")
    filters = [
        Message.parse(field.value)
        for field in entry
        if field.number == _FILTERS and isinstance(field.value, bytes)
    ]
    return image, entry, filters


def _encode(image: images.Image, entry: Message, filters: list[Message]) -> bytes:
    rest = Message(field for field in entry if field.number != _FILTERS)
    parts = []
    for one in filters:
        holder = Message()
        holder.set_message(_FILTERS, one)
        parts.append(holder.encode())
    image.entries = [images.Entry(b"".join(parts) + rest.encode())]
    return images.encode(image)


def _read(folder: Path) -> dict[str, bytes]:
    names = [
        name
        for name in os.listdir(folder)
        if name in (SECCOMP, _PSTREE) or (name.startswith("core-") and name.endswith(".img"))
    ]
    try:
        return {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise Broken(f"the images in {folder} cannot be read: {error.strerror}") from error


def _write(folder: Path, changed: Mapping[str, bytes]) -> None:
    for name, content in changed.items():
        aside = folder / f".{name}.new"
        aside.write_bytes(content)
        os.replace(aside, folder / name)
