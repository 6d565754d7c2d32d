"""shim.memory.mapping: what a process sees after a restore is what it saw at the dump."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.criu import images, mm, pagemap
from shim.errors import Broken, PodthawError, Unfit
from shim.memory import MEMORY, MOUNT_POINT, PAGES, SUMS, model, rewrite, sums
from shim.memory.mapping import copy_memory, map_memory
from shim.memory.model import PAGE, Memory
from tests.unit.shim.memory import dumps
from tests.unit.shim.memory.dumps import Area, Process

BASE = 0x7F0000000000
FULL = "A" * 40


def _map(tmp_path: Path, processes: list[Process]) -> Memory:
    """Dump and map; ``tmp_path`` is the stage."""
    dumps.write(tmp_path / "images", processes)
    return map_memory(tmp_path / "images", tmp_path)


def _space(tmp_path: Path, pid: int) -> mm.AddressSpace:
    return mm.AddressSpace.decode((tmp_path / "images" / f"mm-{pid}.img").read_bytes(), "mm")


def _eager(tmp_path: Path, pid: int) -> set[int]:
    table = pagemap.decode((tmp_path / "images" / f"pagemap-{pid}.img").read_bytes(), "pagemap")
    return {at for run in table.runs for at in range(run.start, run.end, PAGE)}


def _views(processes: list[Process]) -> dict[int, dumps.Contents]:
    return {one.pid: one.view() for one in processes}


def test_a_large_area_is_mapped_and_its_zeros_are_holes(tmp_path: Path) -> None:
    content = FULL + "0" * 40 + "B" * 40 + "." * 40
    one = Process(1, [Area(BASE, content), Area(BASE + (1 << 30), "C" * 4)])
    memory = _map(tmp_path, [one])
    (area,) = memory.areas
    assert (area.pid, area.start, area.end) == (1, BASE, BASE + 160 * PAGE)
    assert memory.ranges() == {1: [(BASE, BASE + 160 * PAGE)]}
    assert memory.stored == 80 * PAGE
    assert (tmp_path / PAGES).stat().st_blocks * 512 == 80 * PAGE
    assert _eager(tmp_path, 1) == {dumps.STACK} | {BASE + (1 << 30) + n * PAGE for n in range(4)}
    assert dumps.restored(tmp_path / "images", tmp_path) == _views([one])
    assert model.decode((tmp_path / MEMORY).read_bytes()) == memory


def test_the_digests_are_those_of_the_data_and_the_rest_is_a_hole(tmp_path: Path) -> None:
    memory = _map(tmp_path, [Process(1, [Area(BASE, FULL + "." * 60 + "B" * 50)])])
    data = bytearray((tmp_path / PAGES).read_bytes())
    assert len(data) == memory.size
    listed = list(sums.decode((tmp_path / SUMS).read_bytes()))
    assert sums.extents(listed) == memory.extents
    for one in listed:
        part = data[one.offset : one.offset + one.length]
        assert hashlib.sha256(part).hexdigest() == one.sha256
        data[one.offset : one.offset + one.length] = bytes(one.length)
    assert not any(data)


def test_an_area_lies_as_its_address_does_in_a_huge_page(tmp_path: Path) -> None:
    areas = [Area(BASE + 5 * PAGE, FULL), Area(BASE + (1 << 30) + 77 * PAGE, FULL)]
    for area in _map(tmp_path, [Process(1, areas)]).areas:
        assert area.offset % (2 << 20) == area.start % (2 << 20)


def test_a_forked_child_shares_its_parents_area_but_for_what_differs(tmp_path: Path) -> None:
    changed = "B" + FULL[:-2] + "."
    tree = [
        Process(1, [Area(BASE, FULL)]),
        Process(2, [Area(BASE, changed)], parent=1),
        Process(3, [Area(BASE, FULL)], parent=2),
    ]
    memory = _map(tmp_path, tree)
    assert memory.stored == 40 * PAGE
    assert len({area.offset for area in memory.areas}) == 1
    assert _eager(tmp_path, 2) == {dumps.STACK, BASE, BASE + 39 * PAGE}
    assert dumps.restored(tmp_path / "images", tmp_path) == _views(tree)


def test_a_child_that_has_become_another_has_its_own_area_under_another_name(
    tmp_path: Path,
) -> None:
    tree = [
        Process(1, [Area(BASE, FULL)]),
        Process(2, [Area(BASE, "B" * 40)], parent=1),
        Process(3, [Area(BASE, "C" * 40)], parent=2),
    ]
    memory = _map(tmp_path, tree)
    assert len({area.offset for area in memory.areas}) == 3
    assert len({_space(tmp_path, pid).vmas[0].shmid for pid in (1, 2, 3)}) == 3
    assert dumps.restored(tmp_path / "images", tmp_path) == _views(tree)


def test_a_process_keeps_a_page_to_be_copied(tmp_path: Path) -> None:
    one = Process(1, [Area(BASE, FULL), Area(BASE + (1 << 30), "B" * 50)], stack=".")
    assert [area.start for area in _map(tmp_path, [one]).areas] == [BASE + (1 << 30)]
    assert dumps.restored(tmp_path / "images", tmp_path) == _views([one])


def test_nothing_worth_it_leaves_the_images_as_they_are(tmp_path: Path) -> None:
    dumps.write(tmp_path / "images", [Process(1, [Area(BASE, "A" * 31)])])
    before = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert map_memory(tmp_path / "images", tmp_path) == Memory()
    assert {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_copy_of_an_ordinary_dump_changes_nothing(tmp_path: Path) -> None:
    dumps.write(tmp_path / "images", [Process(1, [Area(BASE, FULL)])])
    before = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    copy_memory(tmp_path / "images")
    assert {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()} == before


def test_pages_of_an_earlier_dump_are_taken_in(tmp_path: Path) -> None:
    one = Process(1, [Area(BASE, FULL + "BC")], older={BASE + n * PAGE for n in range(5, 41)})
    one.older.add(dumps.STACK)
    _map(tmp_path, [one])
    assert not (tmp_path / "images" / "parent").is_symlink()
    assert dumps.restored(tmp_path / "images", tmp_path) == _views([one])


def _damage_parent(folder: Path) -> None:
    (folder / "images.pre" / "pagemap-1.img").write_bytes(
        (folder / "images" / "pagemap-1.img").read_bytes()
    )


def _cut_pages(folder: Path) -> None:
    os.truncate(folder / "images" / "pages-1.img", PAGE)


def _lose_mm(folder: Path) -> None:
    path = folder / "images" / "mm-1.img"
    path.write_bytes(path.read_bytes()[:-9])


def _lose_pagemap(folder: Path) -> None:
    (folder / "images" / "pagemap-1.img").unlink()


def _point_parent_at_itself(folder: Path) -> None:
    (folder / "images.pre" / "parent").symlink_to("../images")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_damage_parent, "refers to an earlier dump that is not there"),
        (_cut_pages, "pages-1.img is truncated"),
        (_lose_mm, "mm-1.img is truncated"),
        (_lose_pagemap, "there is no pagemap-1.img"),
        (_point_parent_at_itself, "which is no earlier dump"),
    ],
)
def test_damage_is_told(tmp_path: Path, damage: object, told: str) -> None:
    assert callable(damage)
    dumps.write(tmp_path / "images", [Process(1, [Area(BASE, FULL)], older={BASE})])
    damage(tmp_path)
    with pytest.raises(Broken, match=told):
        map_memory(tmp_path / "images", tmp_path)


def _restored_area(content: str, hidden: str, pgoff: int = 0, start: int = BASE) -> Area:
    return Area(
        start,
        content,
        flags=mm.MAP_PRIVATE,
        status=dumps.MAPPED,
        pgoff=pgoff,
        shmid=dumps.OLD_PAGES,
        hidden=hidden,
    )


def _earlier_file(path: Path, content: str) -> Path:
    path.write_bytes(b"".join(dumps.page_of(letter) for letter in content))
    return path


@pytest.mark.parametrize("way", ["map", "copy"])
def test_a_second_capture_stands_alone(tmp_path: Path, way: str) -> None:
    earlier = _earlier_file(tmp_path / "earlier", "XX" + FULL + "0" * 20)
    one = Process(1, [_restored_area("B" + "." * 39, FULL, pgoff=2 * PAGE)])
    dumps.write(tmp_path / "images", [one], earlier=True)
    if way == "map":
        map_memory(tmp_path / "images", tmp_path, earlier=earlier)
    else:
        copy_memory(tmp_path / "images", earlier=earlier)
        (vma, _) = _space(tmp_path, 1).vmas
        assert (vma.status, vma.flags, vma.shmid) == (dumps.ANON, dumps.PLAIN, 0)
        assert not rewrite.pages_files((tmp_path / "images" / "files.img").read_bytes())
        mounts = (tmp_path / "images" / f"mountpoints-{dumps.MOUNTS}.img").read_bytes()
        assert rewrite.mount_ids(mounts, "mounts") == [dumps.ROOT_MOUNT]
    earlier.unlink()
    assert dumps.restored(tmp_path / "images", tmp_path) == _views([one])


def test_a_second_capture_without_the_first_memory_is_told(tmp_path: Path) -> None:
    dumps.write(tmp_path / "images", [Process(1, [_restored_area(FULL, "")])], earlier=True)
    with pytest.raises(Broken, match="memory of the snapshot it was restored from"):
        copy_memory(tmp_path / "images")


def test_a_process_that_opened_the_file_is_not_captured(tmp_path: Path) -> None:
    dumps.write(tmp_path / "images", [Process(1, [Area(BASE, FULL)])], earlier=True)
    fdinfo = dumps.image(images.FDINFO, [dumps.message({1: dumps.OLD_PAGES, 2: 0, 3: 1, 4: 5})])
    (tmp_path / "images" / "fdinfo-2.img").write_bytes(fdinfo)
    with pytest.raises(Unfit, match=f"has opened {MOUNT_POINT}"):
        map_memory(tmp_path / "images", tmp_path)


# -- any tree, any content -------------------------------------------------------------------

_SPANS = [(BASE, 36), (BASE + 36 * PAGE, 40), (BASE + (1 << 31) + 7 * PAGE, 33)]


@st.composite
def _content(draw: st.DrawFn, pages: int) -> str:
    letters = draw(st.lists(st.sampled_from("AB0."), min_size=1, max_size=3))
    text = list("".join(letter * pages for letter in letters)[:pages])
    for at, letter in draw(
        st.lists(st.tuples(st.integers(0, pages - 1), st.sampled_from("ABCD0.")), max_size=12)
    ):
        text[at] = letter
    return "".join(text)


@st.composite
def _tree(draw: st.DrawFn) -> list[Process]:
    made: list[Process] = []
    for pid in range(1, draw(st.integers(1, 4)) + 1):
        parent = draw(st.integers(1, pid - 1)) if pid > 1 else 0
        areas = []
        spans = st.lists(st.sampled_from(_SPANS), unique=True, max_size=3)
        for start, pages in draw(spans):
            copied = [area for one in made for area in one.areas if area.start == start]
            content = draw(_content(pages))
            alike: bool = draw(st.booleans())
            if copied and alike:
                text = list(draw(st.sampled_from(copied)).content)
                for at in draw(st.lists(st.integers(0, pages - 1), max_size=5)):
                    text[at] = content[at]
                content = "".join(text)
            areas.append(Area(start, content))
        areas.sort(key=lambda area: area.start)
        one = Process(pid, areas, parent, exe=draw(st.sampled_from([1, 1, 1, 2])))
        if any(letter != "." for area in areas for letter in area.content):
            one.stack = draw(st.sampled_from("s."))
        held = sorted(at for area in one.all_areas() for at in area.pages())
        one.older = set(draw(st.lists(st.sampled_from(held))))
        made.append(one)
    return made


def _again(one: Process, space: mm.AddressSpace, memory: bytes, seed: int) -> Process:
    """The process after its restore, some pages written, VMAs split, as it is dumped again.

    CRIU leaves out the pages of a mapped file that were not written (``memory``).
    """
    view = one.view()
    areas = []
    for number, vma in enumerate(space.vmas[:-1]):
        cuts = [vma.start, vma.end]
        if seed & 1 << number:
            cuts.insert(1, vma.start + (seed % vma.pages or 1) * PAGE)
        for start, end in pairwise(cuts):
            offset = vma.pgoff + start - vma.start
            hidden, content = "", ""
            for at in range(start, end, PAGE):
                letter = chr(view[at][0]) if at in view else "."
                if (at // PAGE * 7 + seed) % 5 == 0:
                    letter = "Z"
                elif vma.status & mm.FILE_PRIVATE:
                    low = offset + at - start
                    page = memory[low : low + PAGE]
                    hidden += letter if page == view.get(at, bytes(PAGE)) else "."
                    content += (
                        "." if page == view.get(at, bytes(PAGE)) else letter.replace(".", "0")
                    )
                    continue
                hidden += "."
                content += letter
            area = Area(start, content, vma.flags, vma.status)
            if vma.status & mm.FILE_PRIVATE:
                area.pgoff, area.shmid, area.hidden = offset, dumps.OLD_PAGES, hidden
            areas.append(area)
    return Process(one.pid, areas, one.parent, one.exe, stack="s")


@settings(max_examples=60)
@given(tree=_tree(), version=st.sampled_from(["4.1", "4.2"]), seed=st.integers(0, 1000))
def test_each_process_sees_its_memory_again_and_again(
    tree: list[Process], version: str, seed: int
) -> None:
    wide = version == "4.2"
    with tempfile.TemporaryDirectory() as folder:
        first, second, third = (Path(folder, name) for name in ("first", "second", "third"))
        dumps.write(first / "images", tree, wide=wide)
        memory = map_memory(first / "images", first)
        assert dumps.restored(first / "images", first) == _views(tree)
        assert model.decode(model.encode(memory)) == memory

        ids = rewrite.pages_files((first / "images" / "files.img").read_bytes())
        data = (first / PAGES).read_bytes() if ids else b""
        later = [_again(one, _space(first, one.pid), data, seed) for one in tree]
        for stage in (second, third):
            dumps.write(stage / "images", later, wide=wide, earlier=bool(ids))
        earlier = first / PAGES if ids else None
        map_memory(second / "images", second, earlier=earlier)
        copy_memory(third / "images", earlier=earlier)
        if ids:
            (first / PAGES).unlink()
        assert dumps.restored(second / "images", second) == _views(later)
        assert dumps.restored(third / "images", third) == _views(later)


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_images_are_told_or_do_no_harm(data: st.DataObject) -> None:
    """A byte or two of any image are others: an error of Podthaw's, or images all the same."""
    one = Process(1, [_restored_area("B" + "." * 39, FULL), Area(BASE + (1 << 30), FULL)])
    other = Process(2, [Area(BASE + (1 << 30), FULL)], parent=1, older={BASE + (1 << 30)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dumps.write(folder / "images", [one, other], earlier=True)
        earlier = _earlier_file(folder / "earlier", FULL)
        files = sorted(path for path in folder.glob("images*/*.img") if path.stat().st_size < 4096)
        path = data.draw(st.sampled_from(files))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 2))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with contextlib.suppress(PodthawError):
            map_memory(folder / "images", folder, earlier=earlier)
