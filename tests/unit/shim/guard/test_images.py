from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import guard
from shim.criu import images as criu
from shim.criu.wire import Message
from shim.errors import Broken
from shim.guard import filter as bpf
from shim.guard import images

PROGRAM = bpf.build([(1 << 32, 1 << 33)])
TSYNC, SPEC, LISTENER, ESRCH = 1, 4, 8, 16
OURS, OURS_SHARED = LISTENER | SPEC, LISTENER | SPEC | TSYNC | ESRCH
_PSTREE, _CORE, _SECCOMP = 0x50273030, 0x55053847, 0x64413049

Filter = tuple[bytes, int | None, int]
"""Program, number of the one after it, flags."""


def image(magic: int, messages: Sequence[Message]) -> bytes:
    header = b"".join(number.to_bytes(4, "little") for number in (criu.COMMON_MAGIC, magic))
    entries = [criu.Entry(message.encode()) for message in messages]
    return criu.encode(criu.Image(header, magic, entries))


def core(first: int | None, *, state: int | None = None) -> bytes:
    message, thread = Message(), Message()
    message.set_uint(1, 1)
    if state is not None:
        task = Message()
        task.set_uint(1, state)
        message.set_message(3, task)
    thread.set_uint(1, 77)
    if first is not None:
        thread.set_uint(11, 2)
        thread.set_uint(12, first)
    thread.set_bytes(13, b"name")
    message.set_message(5, thread)
    return image(_CORE, [message])


def dump(
    processes: dict[int, dict[int, int | None]], filters: Sequence[Filter] | None = ()
) -> dict[str, bytes]:
    """Process → thread → its first filter."""
    files, tree = {}, []
    for pid, threads in processes.items():
        one = Message()
        one.set_uint(1, pid)
        one.set_uints(5, threads)
        tree.append(one)
        for tid, first in threads.items():
            files[f"core-{tid}.img"] = core(first, state=1 if tid == pid else None)
    files["pstree.img"] = image(_PSTREE, tree)
    if filters is not None:
        entry = b""
        for program, following, flags in filters:
            one, holder = Message(), Message()
            one.set_bytes(1, program)
            if following is not None:
                one.set_uint(2, following)
            one.set_uint(3, flags)
            holder.set_message(1, one)
            entry += holder.encode()
        files["seccomp.img"] = image(_SECCOMP, [Message.parse(entry)])
    return files


def installed(files: dict[str, bytes], tid: int) -> list[tuple[bytes, int]]:
    """What CRIU would install in a thread, in order (seccomp_prepare_threads): program, flags."""
    entry = criu.decode(files[f"core-{tid}.img"], "core").entries[0]
    thread = Message.parse(entry.message).message(5)
    assert thread.uint(1) == 77
    assert thread.blob(13) == b"name"
    if thread.uint(11) != 2:
        assert 12 not in thread
        return []
    listed = Message.parse(criu.decode(files["seccomp.img"], "seccomp").entries[0].message)
    filters = [Message.parse(one.value) for one in listed if isinstance(one.value, bytes)]
    found, at = [], thread.uint(12)
    while True:
        found.append((filters[at].blob(1), filters[at].uint(3)))
        if 2 not in filters[at]:
            return found
        at = filters[at].uint(2)


def with_filter(files: dict[str, bytes]) -> dict[str, bytes]:
    return {**files, **images.added(files, PROGRAM)}


A, B = b"a" * 8, b"b" * 16


@pytest.mark.parametrize("filters", [None, ()])
def test_a_process_without_filters(filters: Sequence[Filter] | None) -> None:
    files = with_filter(dump({1: {1: None}, 5: {5: None, 6: None, 7: None}}, filters))
    assert installed(files, 1) == [(PROGRAM, OURS)]
    assert installed(files, 5) == [(PROGRAM, OURS_SHARED)]  # for all threads
    assert installed(files, 6) == installed(files, 7) == []


def test_ours_is_the_last_of_a_shared_chain() -> None:
    filters = [(B, None, TSYNC), (A, 0, TSYNC)]
    files = with_filter(dump({1: {1: 1, 2: None}}, filters))
    assert installed(files, 1) == [(A, TSYNC), (B, TSYNC), (PROGRAM, OURS_SHARED)]
    assert installed(files, 2) == []


def test_threads_with_chains_of_their_own_get_one_each() -> None:
    filters = [(A, None, 0), (B, None, 0)]
    files = with_filter(dump({1: {1: 0, 2: 1, 3: None}}, filters))
    assert installed(files, 1) == [(A, 0), (PROGRAM, OURS)]
    assert installed(files, 2) == [(B, 0), (PROGRAM, OURS)]
    assert installed(files, 3) == [(PROGRAM, OURS)]


def test_what_only_the_first_thread_has_is_not_spread() -> None:
    files = with_filter(dump({1: {1: 0, 2: None}}, [(A, None, 0)]))
    assert installed(files, 1) == [(A, 0), (PROGRAM, OURS)]
    assert installed(files, 2) == [(PROGRAM, OURS)]
    files = with_filter(dump({1: {1: None, 2: 0}}, [(A, None, 0)]))
    assert installed(files, 1) == [(PROGRAM, OURS)]
    assert installed(files, 2) == [(A, 0), (PROGRAM, OURS)]


def test_processes_that_share_a_chain_share_ours() -> None:
    files = with_filter(dump({1: {1: 0}, 2: {2: 0}}, [(A, None, TSYNC)]))
    assert installed(files, 1) == installed(files, 2) == [(A, TSYNC), (PROGRAM, OURS)]


def test_the_dead_have_no_filter() -> None:
    files = dump({1: {1: None}, 2: {2: None}})
    files["core-2.img"] = core(None, state=2)
    assert "core-2.img" not in images.added(files, PROGRAM)


def test_the_thread_of_a_zombie_may_be_any_number() -> None:
    files = dump({1: {1: 0}, 2: {2: None, 80: None}}, [(A, None, 0)])
    files["core-2.img"] = core(None, state=2)
    del files["core-80.img"]
    files.update(images.added(files, PROGRAM))
    assert installed(files, 1) == [(A, 0), (PROGRAM, OURS)]
    files.update(images.stripped(files))
    assert installed(files, 1) == [(A, 0)]


def test_a_second_filter_is_refused() -> None:
    files = with_filter(dump({1: {1: None}}))
    with pytest.raises(Broken, match="filter of Podthaw already"):
        images.added(files, PROGRAM)


def test_without_a_filter_of_ours_nothing_is_stripped() -> None:
    assert images.stripped(dump({1: {1: 0}}, [(A, None, 0)])) == {}
    assert images.stripped(dump({1: {1: None}}, None)) == {}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),  # filters of the process
            st.integers(0, 2),  # more threads, which share them by TSYNC
            st.lists(st.sampled_from([PROGRAM, bpf.build([(0, 1 << 20)])]), max_size=2),
            st.integers(0, 3),  # where ours stand in the chain
        ),
        min_size=1,
        max_size=5,
    )
)
def test_stripping_leaves_what_was_there(
    tree: list[tuple[int, int, list[bytes], int]],
) -> None:
    """As CRIU dumps it: chains one after the other, the newest filter first."""
    processes: dict[int, dict[int, int | None]] = {}
    filters: list[Filter] = []
    wanted: dict[int, list[tuple[bytes, int]]] = {}
    for number, (count, threads, ours, at) in enumerate(tree):
        pid = 1 + 10 * number
        plain = [bytes([number, one] * 4) for one in range(count)]
        chain = [*plain[:at], *ours, *plain[at:]]
        for index, program in enumerate(reversed(chain)):
            filters.append((program, len(filters) - 1 if index else None, TSYNC))
        processes[pid] = {pid: len(filters) - 1 if chain else None}
        processes[pid] |= {pid + 1 + one: None for one in range(threads)}
        wanted[pid] = [(one, TSYNC) for one in plain]
    files = dump(processes, filters)
    changed = images.stripped(files)
    assert bool(changed) == any(ours for _, _, ours, _ in tree)
    after = {**files, **changed}
    assert {pid: installed(after, pid) for pid in wanted} == wanted
    assert images.stripped(after) == {}
    again = with_filter(after)
    for pid, before in wanted.items():
        programs = [program for program, _ in before]
        assert [program for program, _ in installed(again, pid)] == [*programs, PROGRAM]


@pytest.mark.parametrize(
    "filters",
    [
        [(A, 0, 0)],  # its own successor
        [(A, 5, 0)],
        [(A, 1, 0), (B, 0, 0)],
    ],
)
def test_a_damaged_chain_is_told(filters: list[Filter]) -> None:
    with pytest.raises(Broken, match="chain of filters"):
        images.added(dump({1: {1: 0}}, filters), PROGRAM)


def test_missing_images_are_told() -> None:
    files = dump({1: {1: None, 2: None}})
    del files["core-2.img"]
    with pytest.raises(Broken, match=r"thread 2, and there is no core-2\.img"):
        images.added(files, PROGRAM)
    del files["pstree.img"]
    with pytest.raises(Broken, match=r"no pstree\.img"):
        images.added(files, PROGRAM)


def test_a_folder(tmp_path: Path) -> None:
    files = dump({1: {1: None}}, None)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "pages-1.img").write_bytes(b"no image")
    guard.add(tmp_path, [])
    assert not (tmp_path / "seccomp.img").exists()
    guard.add(tmp_path, [(1 << 32, 1 << 33)])
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert installed(after, 1) == [(PROGRAM, OURS)]
    assert guard.strip(tmp_path)
    assert not guard.strip(tmp_path)
    assert (tmp_path / "core-1.img").read_bytes() == files["core-1.img"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "core-1.img",
        "pages-1.img",
        "pstree.img",
        "seccomp.img",
    ]
