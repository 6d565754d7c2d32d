"""The two ways to finish a dump: map its memory, or have all of it copied at restore.

Both change the folder of a finished dump's images, and both make them stand alone: nothing of an
earlier snapshot or of a dump before the last (CRIU's ``parent``) is needed any more. Files are
replaced, not written into, so a folder of links to a stored snapshot's images serves, too.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from shim.criu import images as criu
from shim.criu import pagemap
from shim.criu.wire import Message
from shim.errors import Broken, Unfit
from shim.memory import MEMORY, MOUNT_POINT, PAGES, SUMS, layout, model, rewrite, sums, writer
from shim.memory.compare import Comparison
from shim.memory.files import SourceFiles
from shim.memory.layout import Placement, Plan
from shim.memory.model import PAGE, Area, Memory
from shim.memory.pieces import ZERO, Piece, gaps, joined, outside, within
from shim.memory.sources import Folders, Task, dumped, read, tasks

_MNT_NS = 9
"""In task_kobj_ids_entry: the mount namespace."""


def map_memory(images: Path, stage: Path, *, earlier: Path | None = None) -> Memory:
    """Move the large private anonymous areas of a dump into ``stage/pages``.

    ``images`` is CRIU's image folder, rewritten in place; ``stage`` is the root of the snapshot to
    be, on the same file system, and gets ``pages``, ``pages.sums`` and ``memory.json``.
    ``earlier`` is the ``pages`` file that the dumped container has at MOUNT_POINT, when it was
    restored from a mapped snapshot: what the dump does not hold of such an area is read there.

    A ``parent`` link in ``images`` is followed for pages that an earlier dump holds, and then
    removed; removing those folders is the caller's.

    Returns what was mapped: ``areas`` is empty when nothing was worth it, and then none of the
    three files exists, but the images still stand alone.

    Raises Unfit when a process has opened the file at MOUNT_POINT, Broken for images that are
    damaged or of an unknown layout, OSError (ENOSPC, EIO …) when writing fails. Each time the
    images are not usable; the caller drops the stage.
    """
    with SourceFiles() as files:
        dump = _Dump(images, files, earlier)
        contents = {task.pid: task.pieces for task in dump.tasks}
        limit = writer.capacity(stage, layout.MAX_SIZE)
        plan = layout.plan(dump.tasks, Comparison(contents, files), limit=limit)
        memory = _write_pages(stage, dump.tasks, plan, files) if plan.placed else Memory()
        dump.finish(plan.placed)
    return memory


def copy_memory(images: Path, *, earlier: Path | None = None) -> None:
    """Make the images of a dump plain ones, which hold all their memory.

    For a container that was restored from a mapped snapshot (``earlier`` as for
    :func:`map_memory`): the areas become anonymous again, their pages are copied into the images,
    and the file and mount of MOUNT_POINT are dropped. For a dump with ``parent`` images: those
    pages are copied in. Any other dump is left as it is.

    Raises Broken and OSError as :func:`map_memory` does.
    """
    with SourceFiles() as files:
        _Dump(images, files, earlier).finish({})


class _Dump:
    """The images of a dump, read, and written again as decided."""

    def __init__(self, folder: Path, files: SourceFiles, earlier: Path | None) -> None:
        self.folder = folder
        self.files = files
        self.folders = Folders.of(folder)
        self.old = rewrite.pages_files(read(folder / "files.img"))
        self._check_not_opened()
        self.tasks = tasks(self.folders, files, earlier=earlier, mapped_ids=self.old)

    def finish(self, placed: Mapping[layout.Key, Placement]) -> None:
        """Rewrite what ``placed`` changes, and what other files than the dump's were needed for."""
        ids = self._files_and_mounts(max((one.slot for one in placed.values()), default=-1) + 1)
        by_task: dict[int, dict[int, Placement]] = {}
        for (pid, index), one in placed.items():
            by_task.setdefault(pid, {})[index] = one
        for task in self.tasks:
            mine = by_task.get(task.pid, {})
            if mine or task.ours or not task.complete:
                self._pages(f"pagemap-{task.pid}.img", task.pagemap, _copied(task, mine))
                self._areas(task, mine, ids)
        if len(self.folders.chain) > 1:
            self._shared_memory()
            (self.folder / "parent").unlink()

    def _check_not_opened(self) -> None:
        if self.old:
            for path in self.folder.glob("fdinfo-*.img"):
                if rewrite.opened(path.read_bytes(), self.old, path.name):
                    raise Unfit(
                        f"a process of the container has opened {MOUNT_POINT}, "
                        "which belongs to the snapshot it was restored from"
                    )

    def _pages(self, name: str, image: pagemap.Pagemap, pieces: list[Piece]) -> None:
        """Write a page map anew, with the pages that it is to hold."""
        path = self.folder / f"pages-{image.pages_id}.img"
        new = path.with_suffix(".new")
        at, moved = 0, []
        for piece in pieces:
            moved.append(piece.moved(at - piece.at))
            at += piece.length
        writer.write_plain(new, moved, self.files)
        os.replace(new, path)
        runs = pagemap.joined(pagemap.Run(one.at, one.length // PAGE) for one in pieces)
        data = pagemap.encode(dataclasses.replace(image, runs=runs))
        _replace(self.folder / name, data)

    def _areas(self, task: Task, mine: Mapping[int, Placement], ids: list[int]) -> None:
        for index, vma in enumerate(task.space.vmas):
            if index in mine:
                task.space.vmas[index] = vma.as_file_mapping(
                    ids[mine[index].slot], mine[index].offset
                )
            elif index in task.ours:
                task.space.vmas[index] = vma.as_anonymous(heap=task.space.is_heap(vma))
        _replace(self.folder / f"mm-{task.pid}.img", task.space.encode())

    def _files_and_mounts(self, count: int) -> list[int]:
        """Have ``count`` names of ``pages`` in the list of files, and a mount if any; their ids."""
        if not count and not self.old:
            return []
        mounts = {path: path.read_bytes() for path in self.folder.glob("mountpoints-*.img")}
        number = 0
        if count:
            used = [
                one for path, data in mounts.items() for one in rewrite.mount_ids(data, path.name)
            ]
            path = self.folder / f"mountpoints-{self._mount_namespace()}.img"
            if path not in mounts:
                raise Broken(f"the dump is incomplete: there is no {path.name}")
            data, number = rewrite.add_mount(mounts[path], used, path.name)
            _replace(path, data)
        else:
            for path, data in mounts.items():
                _replace(path, rewrite.remove_mount(data, path.name))
        path = self.folder / "files.img"
        data, ids = rewrite.replace_pages_files(
            path.read_bytes(), old=self.old, count=count, mount=number
        )
        _replace(path, data)
        return ids

    def _mount_namespace(self) -> int:
        """The number of the first process's mount namespace."""
        path = self.folder / f"ids-{self.tasks[0].pid}.img"
        image = criu.decode(read(path), path.name)
        if image.magic != criu.IDS or len(image.entries) != 1:
            raise Broken(f"{path.name} does not hold the namespaces of a process")
        return Message.parse(image.entries[0].message).uint(_MNT_NS)

    def _shared_memory(self) -> None:
        """Page maps of shared memory, too, may leave pages to an earlier dump."""
        own = {f"pagemap-{task.pid}.img" for task in self.tasks}
        for path in self.folder.glob("pagemap-*.img"):
            if path.name in own:
                continue
            image = pagemap.decode(path.read_bytes(), path.name)
            if any(run.flags & pagemap.PARENT for run in image.runs):
                self._pages(path.name, image, dumped(self.folders, self.files, path.name))


def _replace(path: Path, data: bytes) -> None:
    """Write a file anew; what had been a link to it elsewhere keeps the old content."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.replace(new, path)


def _copied(task: Task, mine: Mapping[int, Placement]) -> list[Piece]:
    """The pages that CRIU is to copy at restore."""
    spans = sorted((one.candidate.start, one.candidate.end) for one in mine.values())
    found = list(outside(task.pieces, spans))
    for placement in mine.values():
        for start, end in placement.differing:
            inside = list(within(task.pieces, start, end))
            found += inside
            found += [Piece(low, high - low, ZERO, 0) for low, high in gaps(inside, start, end)]
    return joined(sorted(found, key=lambda piece: piece.at))


def _write_pages(stage: Path, dump: list[Task], plan: Plan, files: SourceFiles) -> Memory:
    """The three files of the snapshot's root."""
    found = sums.encode(
        digests := writer.write(stage / PAGES, _laid_out(dump, plan), plan.size, files)
    )
    (stage / SUMS).write_bytes(found)
    areas = [
        Area(one.candidate.pid, one.candidate.start, one.candidate.end, one.offset)
        for one in plan.placed.values()
    ]
    memory = Memory(
        size=plan.size,
        areas=tuple(sorted(areas, key=lambda area: (area.pid, area.start))),
        extents=sums.extents(digests),
    )
    (stage / MEMORY).write_bytes(model.encode(memory))
    return memory


def _laid_out(dump: list[Task], plan: Plan) -> list[Piece]:
    """All data of ``pages``, by offset in it."""
    contents = {task.pid: task.pieces for task in dump}

    def parts() -> Iterator[Piece]:
        for one in sorted(plan.placed.values(), key=lambda placement: placement.offset):
            area = one.candidate
            if one.owner == area:
                for piece in within(contents[area.pid], area.start, area.end):
                    yield piece.moved(one.offset - area.start)

    return list(parts())
