"""Where every page of every dumped process lies.

In ``pages-N.img`` of the dump itself; in those of the dumps before it (CRIU's ``parent``), for
pages that did not change since; or, for a container that was itself restored with mapped memory,
in the ``pages`` file of its snapshot, since CRIU leaves out pages of a file that were not written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shim.criu import images, mm, pagemap
from shim.criu.wire import Message
from shim.errors import Broken
from shim.memory.files import SourceFiles
from shim.memory.model import MAX_OFFSET, PAGE
from shim.memory.pieces import Piece, gaps, joined, within

_PARENT = "parent"
_MAX_DEPTH = 64
# pstree_entry
_PID, _PPID = 1, 2


@dataclass(slots=True)
class Task:
    """A process of the dump."""

    pid: int
    parent: int
    """Its parent's number; 0 for the first process."""
    space: mm.AddressSpace
    pagemap: pagemap.Pagemap
    pieces: list[Piece]
    """All its private memory that is not zero or a file's, by address."""
    ours: set[int] = field(default_factory=set)
    """Which of its VMAs (by position) are mappings of an earlier snapshot's memory."""
    complete: bool = True
    """Whether its own ``pages-N.img`` holds all its pages."""


@dataclass(frozen=True, slots=True)
class Folders:
    """A dump and those it builds on: the last one first."""

    chain: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path) -> Folders:
        """Follow the ``parent`` links; Broken for one that leads nowhere or in a circle."""
        chain = [folder.resolve()]
        while (link := chain[-1] / _PARENT).is_symlink():
            target = link.resolve()
            if target in chain or len(chain) == _MAX_DEPTH or not target.is_dir():
                raise Broken(f"the dump builds on {target.name}, which is no earlier dump")
            chain.append(target)
        return cls(tuple(chain))


def tasks(
    folders: Folders, files: SourceFiles, *, earlier: Path | None, mapped_ids: frozenset[int]
) -> list[Task]:
    """The processes of a dump, parents before their children.

    ``mapped_ids`` are the ids in ``files.img`` of an earlier snapshot's memory, which is in the
    file ``earlier``. Raises Broken for images that are damaged or do not fit together.
    """
    found = []
    for pid, parent in _processes(folders.chain[0]):
        path = folders.chain[0] / f"mm-{pid}.img"
        if not path.exists():  # a process that has ended and was not waited for
            continue
        space = mm.AddressSpace.decode(path.read_bytes(), path.name)
        name = f"pagemap-{pid}.img"
        image = pagemap.decode(read(folders.chain[0] / name), name)
        pieces = dumped(folders, files, name)
        complete = not any(run.flags & pagemap.PARENT for run in image.runs)
        task = Task(pid, parent, space, image, pieces, complete=complete)
        task.ours = {
            index
            for index, vma in enumerate(space.vmas)
            if vma.status & mm.FILE_PRIVATE and vma.shmid in mapped_ids
        }
        if task.ours:
            _add_earlier(task, files, earlier)
        found.append(task)
    return found


def dumped(folders: Folders, files: SourceFiles, name: str, depth: int = 0) -> list[Piece]:
    """The pages that the page map called ``name`` lists, wherever they lie."""
    folder = folders.chain[depth]
    image = pagemap.decode(read(folder / name), name)
    number = -2
    before: list[Piece] = []
    found: list[Piece] = []
    offset = 0
    for run in image.runs:
        size = run.end - run.start
        if run.flags & pagemap.PRESENT:
            if number < 0:
                number = files.open(folder / f"pages-{image.pages_id}.img", own=True)
            piece = Piece(run.start, size, number, offset)
            files.check(piece)
            found.append(piece)
            offset += size
        elif run.flags & pagemap.PARENT:
            if not before:
                if depth + 1 == len(folders.chain):
                    raise Broken(f"{name} refers to an earlier dump that is not there")
                before = dumped(folders, files, name, depth + 1)
            parts = list(within(before, run.start, run.end))
            if next(gaps(parts, run.start, run.end), None) is not None:
                raise Broken(f"{name} refers to pages at {run.start:#x} that no dump holds")
            found += parts
        else:
            raise Broken(f"{name} has pages at {run.start:#x} that were left behind")
    return joined(found)


def _add_earlier(task: Task, files: SourceFiles, earlier: Path | None) -> None:
    """Add what the dump left out of the VMAs that are an earlier snapshot's memory."""
    if earlier is None:
        raise Broken(
            f"process {task.pid} has memory of the snapshot it was restored from, "
            "and that snapshot's memory was not given"
        )
    number = files.open(earlier, own=False)
    found = list(task.pieces)
    for index in task.ours:
        vma = task.space.vmas[index]
        if vma.pgoff % PAGE or vma.pgoff + vma.end - vma.start > MAX_OFFSET:
            raise Broken(
                f"mm-{task.pid}.img is damaged: memory at {vma.start:#x} begins at "
                f"{vma.pgoff:#x} of a snapshot's"
            )
        inside = list(within(task.pieces, vma.start, vma.end))
        for start, end in gaps(inside, vma.start, vma.end):
            delta = vma.pgoff - vma.start
            for low, high in files.data(number, start + delta, end + delta):
                found.append(Piece(low - delta, high - low, number, low))
    task.pieces = joined(sorted(found, key=lambda piece: piece.at))


def _processes(folder: Path) -> Iterator[tuple[int, int]]:
    """(process, its parent), parents first."""
    image = images.decode(read(folder / "pstree.img"), "pstree.img")
    if image.magic != images.PSTREE:
        raise Broken("pstree.img is not the list of processes")
    parents = {}
    for entry in image.entries:
        message = Message.parse(entry.message)
        parents[message.uint(_PID)] = message.uint(_PPID)

    def depth(pid: int) -> int:
        steps = 0
        while pid in parents and steps <= len(parents):
            pid, steps = parents[pid], steps + 1
        return steps

    yield from sorted(parents.items(), key=lambda item: (depth(item[0]), item[0]))


def read(path: Path) -> bytes:
    """The content of an image; Broken when there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Broken(f"the dump is incomplete: there is no {path.name}") from None
