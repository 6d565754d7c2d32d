"""What a capture that was killed may leave on a container, and taking it off again.

CRIU undoes everything itself when it fails. When CRIU is killed, the kernel detaches it from the
processes, but these stay: the cgroup frozen, firewall rules and TCP repair mode that hold
connections, ``link_remap.N`` names of deleted files, and half written images. Before anything is
frozen a record of all this is written, so that whoever comes next can undo it: the capture
itself, its guardian (:mod:`shim.guardian`), or the next capture of the container.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from shim import procfs, sockets
from shim.container import start_time
from shim.namespaces import in_namespace

_LINK_REMAP = re.compile(r"link_remap\.\d+")
"""Name that CRIU gives to a deleted file which has other names (criu/files-reg.c)."""

_MARK = "! --mark 0xc114"
"""CRIU's mark on packets of its own (soccr/soccr.h): only its rules let exactly those pass."""

_RUN_ID = re.compile(r"CRIU run id = ([0-9A-Za-z-]+)")

_SHORTEST_TABLE = len("CRIU-") + 16

_TOOL_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Record:
    """What must be looked after when a capture dies."""

    container: str
    pid: int
    """First process of the container."""
    started: int
    """Its start time, in clock ticks after boot."""
    freezer: str | None
    """Folder of the container's freezer."""
    cgroup_version: int
    since: float
    """Unix time in seconds at which the capture began."""
    link_folders: list[str] = field(default_factory=list)
    """Folders below which CRIU may have made names."""
    log: str = ""
    """CRIU's log, which names its firewall table."""
    scratch: list[str] = field(default_factory=list)
    """Folders and files to be removed."""
    cuda: str = ""
    """How the NVIDIA driver is asked (:mod:`shim.cuda`), if processes use it."""
    cuda_processes: dict[str, int] = field(default_factory=dict)
    """Process that may have been locked or checkpointed → its start time."""

    def write(self, path: Path) -> None:
        """Write the record so that it is there whole or not at all."""
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(asdict(self), file)
        os.replace(aside, path)


def read(path: Path) -> Record | None:
    """The record of a capture that died, or None when there is none that can be read."""
    try:
        return Record(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def only_files(record: Record) -> Record:
    """The record once the container is as before and only files are left to be removed."""
    return replace(record, started=-1, freezer=None, link_folders=[], cuda_processes={})


@dataclass(frozen=True, kw_only=True)
class Criu:
    """The process that does the dump; it leads a session of its own."""

    pid: int
    started: int


def undo(record: Record, criu: Criu | None = None, *, touched: bool = True) -> list[str]:
    """Bring a container back to where it was before the capture; safe to repeat.

    ``touched`` is False when CRIU was not started yet: then only files are removed. Returns what
    had to be done, for the log. Never raises: each step helps by itself.
    """
    done: list[str] = []
    if criu is not None:
        stop(criu)
    if touched and start_time(record.pid) == record.started:
        # When CRIU is killed its processes run on at once, with connections that answer EPERM:
        # hold them until these are as before.
        freeze(record.freezer, record.cgroup_version)
        if count := end_repair(record):
            done.append(f"released {count} TCP connections")
        if count := unlock_connections(record):
            done.append(f"removed {count} firewall rules")
    if touched and thaw(record.freezer, record.cgroup_version):
        done.append("thawed the container")
    if touched:
        done += bring_back_gpu(record)
    for folder in record.link_folders if touched else ():
        count = remove_links(Path(folder), record.since)
        done += [f"removed {count} temporary names in {folder}"] if count else []
    for path in record.scratch:
        _remove(Path(path))
    return done


NOT_BACK = "not brought back: "
"""Begins the lines about processes that the NVIDIA driver did not let run on."""


def bring_back_gpu(record: Record) -> list[str]:
    """Bring the processes that use CUDA back to running; tells what was done, and what was not."""
    processes = {int(pid): began for pid, began in record.cuda_processes.items()}
    if not any(start_time(pid) == began for pid, began in processes.items()):
        return []
    from shim.cuda import session  # noqa: PLC0415 - few containers have a GPU

    done, problems = session.bring_back(record.cuda, processes)
    return [*done, *(NOT_BACK + problem for problem in problems)]


def stop(criu: Criu, *, patience: float = 10.0) -> None:
    """End CRIU: first so that it lets go of the processes in good order, else by SIGKILL.

    There is no signal for the former. With a file size limit of zero its next write fails, which
    it handles like a full disk: it undoes everything and exits. (SIGXFSZ is ignored since its
    start.) Waits until it and what it started are gone.
    """
    try:
        pidfd = os.pidfd_open(criu.pid)
    except OSError:
        return
    try:
        if start_time(criu.pid) != criu.started:
            return
        with contextlib.suppress(OSError, ValueError):
            _limit_file_size(criu.pid)
        _gone(pidfd, patience)
        _end_group(criu.pid, patience)
    finally:
        os.close(pidfd)


def freeze(freezer: str | None, version: int, *, seconds: float = 0.5) -> bool:
    """Freeze a container; False when it did not stop within that time (it is thawed then)."""
    if freezer is None:
        return False
    end = time.monotonic() + seconds
    try:
        if version == 1:
            state, asked = Path(freezer, "freezer.state"), "FROZEN"
        else:
            state, asked = Path(freezer, "cgroup.freeze"), "1"
        state.write_text(asked)
        while time.monotonic() < end:
            events = state if version == 1 else Path(freezer, "cgroup.events")
            text = events.read_text()
            if text.strip() == "FROZEN" or "frozen 1" in text:
                return True
            time.sleep(0.001)
    except OSError:
        return False
    thaw(freezer, version)
    return False


def thaw(freezer: str | None, version: int) -> bool:
    """Thaw a container's freezer; True when it was frozen."""
    if freezer is None:
        return False
    path = Path(freezer, "freezer.state" if version == 1 else "cgroup.freeze")
    try:
        state = path.read_text().strip()
        if state in ("THAWED", "0"):
            return False
        path.write_text("THAWED" if version == 1 else "0")
    except OSError:
        return False
    return True


def is_frozen(freezer: Path | None, version: int) -> bool:
    """Whether a container is paused."""
    if freezer is None:
        return False
    try:
        text = (freezer / ("freezer.state" if version == 1 else "cgroup.freeze")).read_text()
    except OSError:
        return False
    return text.strip() not in ("THAWED", "0")


def unlock_connections(record: Record) -> int:
    """Remove the firewall rules that the dump left in the container's network namespace."""
    table = table_name(Path(record.log))
    try:
        return in_namespace(f"/proc/{record.pid}/ns/net", lambda: _remove_rules(table))
    except OSError:
        return 0


def table_name(log: Path) -> str | None:
    """The nftables table of a dump, named after the run id at the head of CRIU's log.

    CRIU cuts ``inet CRIU-<id>`` to what its buffer of 32 bytes holds (criu/netfilter.c), so the
    kernel may know a beginning of this name.
    """
    try:
        with log.open(errors="replace") as file:
            match = _RUN_ID.search(file.read(1 << 16))
    except OSError:
        return None
    return f"CRIU-{match[1]}" if match else None


def end_repair(record: Record) -> int:
    """Take the container's TCP sockets out of repair mode; returns how many were in it."""
    freezer = Path(record.freezer) if record.freezer else None
    pids = {record.pid} | (procfs.processes(freezer) if freezer else set())
    count = 0
    with sockets.Duplicates() as duplicates:
        for pid in pids:
            for number in _socket_numbers(pid):
                count += duplicates.end_repair(pid, number)
    return count


def remove_links(folder: Path, since: float) -> int:
    """Remove the names that CRIU made below a folder since then; returns how many."""
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if _LINK_REMAP.fullmatch(name):
                path = Path(place, name)
                with contextlib.suppress(OSError):
                    # Made by a link or by a rename, either of which sets the change time.
                    if path.lstat().st_ctime >= since - 1:
                        path.unlink()
                        count += 1
    return count


def delete_rule(line: str) -> list[str] | None:
    """The arguments that delete a rule, from its line in ``iptables -S``; None if not CRIU's."""
    words = shlex.split(line)
    if _MARK not in line or len(words) < 2 or words[0] != "-A" or words[-2:] != ["-j", "DROP"]:
        return None
    return ["-D", *words[1:]]


def own_tables(listing: str, table: str | None) -> list[str]:
    """Those tables of ``nft list tables`` that are this dump's, whole or cut."""
    words = [line.split() for line in listing.splitlines()]
    names = [line[2] for line in words if len(line) == 3 and line[:2] == ["table", "inet"]]
    return [
        name
        for name in names
        if table is not None and len(name) >= _SHORTEST_TABLE and table.startswith(name)
    ]


def _remove_rules(table: str | None) -> int:
    count = 0
    for tool in ("iptables", "ip6tables"):
        for line in _run([tool, "-w", "5", "-S"]).splitlines():
            arguments = delete_rule(line)
            if arguments is not None:
                _run([tool, "-w", "5", *arguments])
                count += 1
    for name in own_tables(_run(["nft", "list", "tables"]), table):
        _run(["nft", "delete", "table", "inet", name])
        count += 1
    return count


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _socket_numbers(pid: int) -> list[int]:
    folder = f"/proc/{pid}/fd"
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}").startswith("socket:"):
                    found.append(int(name))
    return found


def _limit_file_size(pid: int) -> None:
    import resource  # noqa: PLC0415 - only when something went wrong

    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))


def _end_group(leader: int, seconds: float) -> None:
    """Kill a process group and wait until none of it runs any more.

    CRIU may be below a wrapper, and it holds the container until it is gone itself.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(_in_group(name, leader) for name in os.listdir("/proc")):
        time.sleep(0.01)


def _in_group(name: str, leader: int) -> bool:
    if not name.isdecimal():
        return False
    try:
        text = Path("/proc", name, "stat").read_text()
    except OSError:
        return False
    state, _, group = text[text.rfind(")") + 2 :].split()[:3]
    return int(group) == leader and state not in "ZX"


def _gone(pidfd: int, seconds: float) -> bool:
    import select  # noqa: PLC0415 - only when something went wrong

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(max(0.0, seconds) * 1000))


def _remove(path: Path) -> None:
    for _ in range(3):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        except OSError:
            time.sleep(0.1)
