from __future__ import annotations

import ctypes
import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import procfs
from shim.container import ContainerRef

STATUS = """\
Name:\tserver
Umask:\t0022
State:\tS (sleeping)
Pid:\t4711
PPid:\t4700
TracerPid:\t5
NSpid:\t4711\t17
VmRSS:\t    2048 kB
RssAnon:\t    1000 kB
RssFile:\t    1000 kB
RssShmem:\t      48 kB
Threads:\t21
"""
INOTIFY = """\
pos:\t0
flags:\t00
inotify wd:2 ino:f0093 sdev:b2 mask:2 ignored_mask:0 fhandle-bytes:20 fhandle-type:f8 f_handle:0
inotify wd:1 ino:11400d sdev:fe00000 mask:2 ignored_mask:0 fhandle-bytes:8
"""
FANOTIFY = """\
fanotify flags:10 event-flags:0
fanotify ino:4f969 sdev:800013 mflags:0 mask:3b ignored_mask:40000000 fhandle-bytes:8
"""
MAPS = """\
00400000-00401000 r-xp 00000000 fe:00 1 /usr/bin/x
7f0000000000-7f0000001000 rw-s 00000000 00:01 32768 /SYSV00000000 (deleted)
7f0000001000-7f0000002000 rw-s 00000000 00:01 32768 /SYSV00000000 (deleted)
7f0000200000-7f0000400000 rw-p 00000000 00:10 77 /anon_hugepage (deleted)
7fff00000000-7fff00001000 rw-p 00000000 00:00 0 [stack]
7fff00001000-7fff00002000 --xp 00000000 00:00 0 [uprobes]
7fff00003000-7fff00004000 rw-p 00000000 00:00 0
"""


def test_status() -> None:
    assert procfs.parse_status(STATUS) == procfs.Status(
        name="server",
        state="S",
        parent=4700,
        tracer=5,
        threads=21,
        inner=17,
        resident=2048 << 10,
        dumpable=1048 << 10,
    )


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=200))
def test_any_status_is_read(text: str) -> None:
    found = procfs.parse_status(text)
    assert found.resident >= 0 or "-" in text


def test_watches() -> None:
    assert procfs.parse_watches(INOTIFY) == ((0xB2, 0xF0093), (0xFE00000, 0x11400D))
    assert procfs.parse_watches(FANOTIFY) == ((0x800013, 0x4F969),)


@given(st.text(max_size=200))
def test_any_fdinfo_is_read(text: str) -> None:
    assert isinstance(procfs.parse_watches(text), tuple)


def test_the_kernels_device_numbers() -> None:
    assert procfs.kernel_device(os.makedev(254, 0)) == 0xFE00000
    assert procfs.kernel_device(os.makedev(0, 0xB2)) == 0xB2


def test_maps() -> None:
    assert procfs.parse_maps(MAPS) == (
        "/SYSV00000000 (deleted)",
        "/anon_hugepage (deleted)",
        "[uprobes]",
    )


@pytest.mark.parametrize(
    ("first", "name"),
    [
        ("100000-200000 r-xs 00000000 00:01 5928 /dev/zero (deleted)", "/dev/zero (deleted)"),
        ("100000-200000 --xs 00000000 00:01 5928", "anonymous"),
        ("100000-200000 rwxs 00000000 00:01 5928 /dev/zero (deleted)", ""),
        ("100000-200000 rw-s 00000000 00:01 5928 /dev/zero (deleted)", ""),
        ("100000-200000 r-xp 00000000 fe:00 1 /usr/bin/y", ""),
    ],
)
def test_shared_code_matters_where_it_comes_first(first: str, name: str) -> None:
    assert procfs.shared_code(f"{first}\n{MAPS}") == name
    assert procfs.shared_code(f"{MAPS}{first}\n") == ""


def test_limits_that_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not procfs.hides_limits(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert not procfs.hides_limits(ended.pid)

    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(resource, "prlimit", refuse)
    assert procfs.hides_limits(os.getpid())


def test_a_real_watch_is_found_as_the_kernel_tells_it(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(tmp_path), 2) > 0
        text = Path(f"/proc/self/fdinfo/{watch}").read_text()
        ((_, inode),) = procfs.parse_watches(text)
        assert inode == tmp_path.stat().st_ino
    finally:
        os.close(watch)


def test_the_processes_of_a_control_group(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "cgroup.procs").write_text("12\n7\n0\n")
    (tmp_path / "below/cgroup.procs").write_text("9\n")
    assert procfs.processes(tmp_path) == {7, 9, 12}
    assert procfs.processes(tmp_path / "absent") == set()


def test_a_real_process_tree(tmp_path: Path) -> None:
    code = (
        "import os, socket, subprocess, sys, time\n"
        "kept = socket.socketpair()\n"
        "lost = open(sys.argv[1], 'w')\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "file")], stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            (tmp_path / "group").mkdir()
            members = f"{os.getpid()}\n{child}\n{parent.pid}\n"
            (tmp_path / "group/cgroup.procs").write_text(members)
            container = ContainerRef(
                id="x",
                bundle=tmp_path,
                rootfs=tmp_path,
                pid=parent.pid,
                started=0,
                spec={},
                cgroups={"freezer": str(tmp_path / "group")},
                descriptors=(),
            )
            tree, strangers = procfs.tasks(container)
            assert [task.pid for task in tree] == [parent.pid, child]
            assert [task.pid for task in strangers] == [os.getpid()]
            assert procfs.tree_pids(container) == [parent.pid, child]
            first = tree[0]
            assert first.resident > 1 << 20
            assert dict(first.namespaces)["net"] == Path("/proc/self/ns/net").stat().st_ino
            sockets = [one for one in first.descriptors if one.kind == "socket"]
            assert len(sockets) == 2
            peers = {one.inode: one.socket.peer for one in sockets if one.socket}
            assert set(peers) == set(peers.values())
            files = [one.target for one in first.descriptors if one.kind == "file"]
            assert str(tmp_path / "file") in files
            os.kill(child, 9)
        finally:
            parent.kill()
