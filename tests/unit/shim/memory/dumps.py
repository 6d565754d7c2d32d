"""Dumps made up for tests, and what CRIU would make of a dump at restore.

Content is one letter a page: page 0 of a VMA with the content ``"A.."`` is full of ``A``, the
other two are zero and not in the dump.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shim.criu import images, mm, pagemap
from shim.criu.wire import Message
from shim.memory import MOUNT_POINT, PAGES
from shim.memory.model import PAGE

ANON = mm.REGULAR | mm.ANON_PRIVATE
MAPPED = mm.REGULAR | mm.FILE_PRIVATE
PLAIN = mm.MAP_PRIVATE | mm.MAP_ANONYMOUS
GROWSDOWN = 0x100
STACK = 0x7FFE00000000
EXE, OLD_PAGES = 1, 7
MOUNTS = 13
ROOT_MOUNT, OLD_MOUNT = 284, 290
Contents = dict[int, bytes]
"""Address of a page → its bytes, where it is not zero."""


@dataclass
class Area:
    """A VMA of a made up process."""

    start: int
    content: str
    """A letter for each page; ``.`` is a page that was never touched, ``0`` one that is zero."""
    flags: int = PLAIN
    status: int = ANON
    madv: int = 0
    pgoff: int = 0
    shmid: int = 0
    hidden: str = ""
    """Of a mapping of an earlier snapshot: a letter for each page that the dump leaves out."""

    @property
    def end(self) -> int:
        return self.start + len(self.content) * PAGE

    def pages(self) -> dict[int, bytes]:
        """What the dump holds."""
        return {
            self.start + number * PAGE: page_of(letter)
            for number, letter in enumerate(self.content)
            if letter != "."
        }


@dataclass
class Process:
    """A made up process; its stack is added."""

    pid: int
    areas: list[Area]
    parent: int = 0
    exe: int = EXE
    older: set[int] = field(default_factory=set)
    """Addresses of pages that only the dump before holds."""
    stack: str = "s"

    def all_areas(self) -> list[Area]:
        return [*self.areas, Area(STACK, self.stack, flags=PLAIN | GROWSDOWN)]

    def view(self) -> Contents:
        """What it sees."""
        seen: Contents = {}
        for area in self.all_areas():
            for number, letter in enumerate(area.hidden):
                seen[area.start + number * PAGE] = page_of(letter)
            seen.update(area.pages())
        return {at: page for at, page in seen.items() if page != bytes(PAGE)}


def page_of(letter: str) -> bytes:
    return bytes(PAGE) if letter in "0." else letter.encode() * PAGE


def write(
    folder: Path, processes: Iterable[Process], *, wide: bool = True, earlier: bool = False
) -> None:
    """Write the images; pages that are ``older`` go to a dump before it, in ``<folder>.pre``.

    ``earlier``: the dump is of a container with MOUNT_POINT.
    """
    processes = list(processes)
    folder.mkdir(parents=True)
    tree = [message({1: one.pid, 2: one.parent, 3: 1, 4: 1, 5: one.pid}) for one in processes]
    (folder / "pstree.img").write_bytes(image(images.PSTREE, tree))
    files = [reg(EXE, "/bin/program", ROOT_MOUNT)]
    mounts = [mount(ROOT_MOUNT, "/", 104)]
    if earlier:
        files.append(reg(OLD_PAGES, MOUNT_POINT, OLD_MOUNT))
        mounts.insert(0, mount(OLD_MOUNT, MOUNT_POINT, ROOT_MOUNT))
    (folder / "files.img").write_bytes(image(images.FILES, files))
    (folder / f"mountpoints-{MOUNTS}.img").write_bytes(image(images.MOUNTPOINTS, mounts))
    (folder / f"ids-{processes[0].pid}.img").write_bytes(
        image(images.IDS, [message({1: 2, 9: MOUNTS})])
    )
    if any(one.older for one in processes):
        before = folder.with_name(folder.name + ".pre")
        before.mkdir()
        (folder / "parent").symlink_to(f"../{before.name}")
    for number, one in enumerate(processes, 1):
        _write_process(folder, one, number, wide=wide)


def _write_process(folder: Path, one: Process, number: int, *, wide: bool) -> None:
    vmas = [
        message(
            {1: a.start, 2: a.end, 3: a.pgoff, 4: a.shmid, 5: 3, 6: a.flags, 7: a.status, 8: 1}
            | ({9: a.madv} if a.madv else {})
            | ({10: 0} if a.status & mm.FILE_PRIVATE else {})
        )
        for a in one.all_areas()
    ]
    space = message(dict.fromkeys(range(1, 13), 0) | {12: one.exe})
    for vma in vmas:
        space = Message([*space, *bytes_field(14, vma.encode())])
    (folder / f"mm-{one.pid}.img").write_bytes(image(images.MM, [space]))
    pages = {at: page for area in one.all_areas() for at, page in area.pages().items()}
    _write_pages(folder, one.pid, number, pages, one.older, wide=wide)
    if one.older:
        # The dump before has other pages, too, and older content of those that changed since.
        stale = {at: b"?" * PAGE for at in pages if at not in one.older}
        before = stale | {at: pages[at] for at in one.older}
        _write_pages(folder.with_name(folder.name + ".pre"), one.pid, number, before, set())


def _write_pages(
    folder: Path, pid: int, number: int, pages: Contents, older: set[int], *, wide: bool = True
) -> None:
    runs = pagemap.joined(
        pagemap.Run(at, 1, pagemap.PARENT if at in older else pagemap.PRESENT)
        for at in sorted(pages)
    )
    header = struct.pack("<II", images.COMMON_MAGIC, images.PAGEMAP)
    made = pagemap.Pagemap(message({1: number}).encode(), number, runs, header, wide)
    (folder / f"pagemap-{pid}.img").write_bytes(pagemap.encode(made))
    data = b"".join(pages[at] for at in sorted(pages) if at not in older)
    (folder / f"pages-{number}.img").write_bytes(data)


def restored(folder: Path, stage: Path) -> dict[int, Contents]:
    """What each process sees after CRIU 4.2 has restored the images.

    As criu/mem.c does it: a VMA that is like the parent's is the parent's, copied on write; the
    parent's pages that are not the child's are dropped, which shows the file again; then the
    child's pages are written.
    """
    path = stage / PAGES
    data = path.read_bytes() if path.exists() else b""
    names = {}
    for entry in images.decode((folder / "files.img").read_bytes(), "files.img").entries:
        file = Message.parse(entry.message)
        names[file.uint(2)] = file.message(3)
    mounts = images.decode((folder / f"mountpoints-{MOUNTS}.img").read_bytes(), "mounts").entries
    points = {
        one.uint(2): one.text(7) for one in (Message.parse(entry.message) for entry in mounts)
    }
    done: dict[int, _Restored] = {}
    for entry in images.decode((folder / "pstree.img").read_bytes(), "pstree.img").entries:
        task = Message.parse(entry.message)
        pid, parent = task.uint(1), task.uint(2)
        space = mm.AddressSpace.decode((folder / f"mm-{pid}.img").read_bytes(), "mm")
        table = pagemap.decode((folder / f"pagemap-{pid}.img").read_bytes(), "pagemap")
        pages = _pages(folder, table)
        assert table.runs, "CRIU crashes on a page map without entries"
        backing: dict[tuple[int, int], int | None] = {}
        seen: Contents = {}
        above = done.get(parent)
        for vma in space.vmas:
            span = vma.start, vma.end
            offset = None
            if not vma.flags & mm.MAP_ANONYMOUS:
                file = names[vma.shmid]
                if file.text(5 + 1) == MOUNT_POINT:
                    assert points[file.uint(7) >> 1] == MOUNT_POINT
                    assert vma.pgoff + vma.end - vma.start <= len(data)
                    offset = vma.pgoff
            like = above.vmas.get(span) if above else None
            inherited: Contents = {}
            if above and like and above.exe == space.exe and _like(vma, like):
                offset = above.backing[span]
                inherited = {
                    at: page
                    for at, page in above.seen.items()
                    if vma.start <= at < vma.end and (at not in above.own or at in pages)
                }
            backing[span] = offset
            for at in range(vma.start, vma.end, PAGE):
                if at in inherited:
                    seen[at] = inherited[at]
                elif offset is not None:
                    low = offset + at - vma.start
                    seen[at] = data[low : low + PAGE]
        assert all(any(v.start <= at < v.end for v in space.vmas) for at in pages)
        seen.update(pages)
        vmas = {(vma.start, vma.end): vma for vma in space.vmas}
        done[pid] = _Restored(space.exe, vmas, backing, seen, set(pages))
    return {
        pid: {at: page for at, page in one.seen.items() if page != bytes(PAGE)}
        for pid, one in done.items()
    }


@dataclass
class _Restored:
    exe: int
    vmas: dict[tuple[int, int], mm.Vma]
    backing: dict[tuple[int, int], int | None]
    seen: Contents
    own: set[int]


def _like(vma: mm.Vma, other: mm.Vma) -> bool:
    """check_cow_vmas in criu/mem.c."""
    if (vma.flags ^ other.flags) & (GROWSDOWN | mm.MAP_ANONYMOUS):
        return False
    return bool(vma.flags & mm.MAP_ANONYMOUS) or vma.shmid == other.shmid


def _pages(folder: Path, table: pagemap.Pagemap) -> Contents:
    data = (folder / f"pages-{table.pages_id}.img").read_bytes()
    found: Contents = {}
    at = 0
    for run in table.runs:
        assert run.flags & pagemap.PRESENT
        for address in range(run.start, run.end, PAGE):
            found[address] = data[at : at + PAGE]
            at += PAGE
    assert at == len(data)
    return found


def image(magic: int, messages: Iterable[Message]) -> bytes:
    header = struct.pack("<II", images.COMMON_MAGIC, magic)
    entries = [images.Entry(one.encode()) for one in messages]
    return images.encode(images.Image(header, magic, entries))


def message(values: Mapping[int, int]) -> Message:
    made = Message()
    for number, value in values.items():
        made.set_uint(number, value)
    return made


def bytes_field(number: int, value: bytes) -> Message:
    made = Message()
    made.set_bytes(number, value)
    return made


def reg(number: int, name: str, mount_id: int) -> Message:
    made = message({1: number, 2: 0, 3: 0, 7: mount_id << 1})
    made.set_message(5, message(dict.fromkeys(range(1, 6), 0)))
    made.set_bytes(6, name.encode())
    file = message({1: 1, 2: number})
    file.set_message(3, made)
    return file


def mount(number: int, point: str, parent: int) -> Message:
    made = message({1: 0, 2: number, 3: 5, 4: parent, 5: 0, 10: 0, 11: 0})
    for field_number, text in ((6, "/"), (7, point), (8, "none"), (9, "")):
        made.set_bytes(field_number, text.encode())
    return made
