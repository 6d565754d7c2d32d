"""Behaviours of processes and threads: what the kernel holds of them besides memory."""

from __future__ import annotations

import ctypes
import os
import queue
import re
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from .behaviour import Answer, Behaviour, attempt, behaviour, call, libc, scratch, until

PR_GET_NAME, PR_SET_NAME = 16, 15
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
PR_CAPBSET_DROP, PR_SET_KEEPCAPS = 24, 8
CAP_CHOWN = 0


@behaviour
class Threads(Behaviour):
    """Threads that hold a lock, wait for a condition, wait for work, and compute."""

    def set_up(self) -> None:
        self.lock = threading.Lock()
        self.release = threading.Event()
        self.condition = threading.Condition()
        self.flag = False
        self.jobs: queue.Queue[int] = queue.Queue()
        self.results: queue.Queue[str] = queue.Queue()
        self.count = 0
        self.local = threading.local()
        self.threads = [
            threading.Thread(target=target, daemon=True, name=target.__name__)
            for target in (self._hold, self._contend, self._wait, self._work, self._compute)
        ]
        for thread in self.threads:
            thread.start()
            time.sleep(0.02)
        self.ids = self._ids()

    def _ids(self) -> list[str]:
        return sorted(os.listdir("/proc/self/task"))

    def _hold(self) -> None:
        with self.lock:
            self.release.wait()
        self.results.put("released")

    def _contend(self) -> None:
        with self.lock:
            self.results.put("acquired")

    def _wait(self) -> None:
        self.local.value = "of the waiting thread"
        with self.condition:
            self.condition.wait_for(lambda: self.flag)
        self.results.put(self.local.value)

    def _work(self) -> None:
        while True:
            self.results.put(f"worked on {self.jobs.get()}")

    def _compute(self) -> None:
        while True:
            self.count += 1
            time.sleep(0.002)

    def observe(self) -> Answer:
        before = self.count
        alive = [thread.is_alive() for thread in self.threads]
        locked = self.lock.locked()
        early = self.results.qsize()
        self.release.set()
        with self.condition:
            self.flag = True
            self.condition.notify_all()
        self.jobs.put(41)
        results = sorted(self.results.get(timeout=5) for _ in range(4))
        return {
            "alive": alive,
            "locked": locked,
            "nothing ran ahead": early == 0,
            "results": results,
            "computes": until(lambda: self.count > before + 5),
        }


@behaviour
class ThreadIds(Behaviour):
    """Thread ids, names and per-thread signal masks stay."""

    def set_up(self) -> None:
        self.stop = threading.Event()
        self.seen: dict[str, int] = {}
        for index in range(3):
            threading.Thread(target=self._run, args=(f"worker-{index}",), daemon=True).start()
        until(lambda: len(self.seen) == 3)
        self.before = self._tasks()

    def _run(self, name: str) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN + len(self.seen)})
        libc.prctl(PR_SET_NAME, name.encode())
        self.seen[name] = threading.get_native_id()
        self.stop.wait()

    def _tasks(self) -> dict[str, list[str]]:
        tasks = {}
        for task in Path("/proc/self/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            tasks[task.name] = [
                line for line in lines if line.startswith(("Name", "SigBlk", "Pid", "Cap"))
            ]
        return tasks

    def observe(self) -> Answer:
        return {"tasks": self._tasks() == self.before, "count": len(self.before)}


@behaviour
class Signals(Behaviour):
    """Handlers, ignored, blocked and pending signals, with the values queued."""

    def set_up(self) -> None:
        self.seen: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: self.seen.append(number))
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        self.queued = signal.SIGRTMIN + 3
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {self.queued, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH}
        )
        for value in (11, 22, 33):
            call("sigqueue", os.getpid(), int(self.queued), ctypes.c_void_p(value))
        os.kill(os.getpid(), signal.SIGHUP)  # pending for the process
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # pending for the thread

    def observe(self) -> Answer:
        pending = sorted(int(number) for number in signal.sigpending())
        blocked = sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, set()))
        values = []
        for _ in range(3):
            info = bytearray(128)
            buffer = (ctypes.c_char * 128).from_buffer(info)
            mask = ctypes.c_uint64(1 << (self.queued - 1))
            timeout = (ctypes.c_long * 2)(1, 0)
            call("sigtimedwait", ctypes.byref(mask), buffer, timeout)
            # si_value stands behind si_signo, si_errno, si_code, padding, si_pid and si_uid.
            values.append(int.from_bytes(info[24:28], "little"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        handled = until(lambda: self.seen == [signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)
        return {
            "pending": pending,
            "blocked": blocked,
            "queued values": values,
            "pending one was handled": handled,
            "handler runs again": until(lambda: len(self.seen) == 2),
            "ignored": signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN,
        }


@behaviour
class SignalStack(Behaviour):
    """An alternate signal stack stays installed."""

    def set_up(self) -> None:
        self.memory = ctypes.create_string_buffer(65536)
        self.stack = (ctypes.c_uint64 * 3)(ctypes.addressof(self.memory), 0, 65536)
        call("sigaltstack", self.stack, None)

    def observe(self) -> Answer:
        current = (ctypes.c_uint64 * 3)()
        call("sigaltstack", None, current)
        return {"same": list(current)[::2] == list(self.stack)[::2]}


@behaviour
class Children(Behaviour):
    """A pre-fork server: workers that accept on one socket, die and are replaced."""

    def set_up(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = self.server.getsockname()[1]
        self.pids = [self._spawn() for _ in range(2)]

    def _spawn(self) -> int:
        pid = os.fork()
        if pid == 0:
            while True:
                connection, _ = self.server.accept()
                connection.sendall(f"{os.getpid()} of {os.getppid()}".encode())
                connection.close()
        return pid

    def _ask(self) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return connection.recv(100)

    def observe(self) -> Answer:
        family = {f"{pid} of {os.getpid()}".encode() for pid in self.pids}
        answers = {self._ask() for _ in range(6)}
        os.kill(self.pids[0], signal.SIGKILL)
        _, status = os.waitpid(self.pids[0], 0)
        replacement = self._spawn()
        os.kill(self.pids[1], signal.SIGKILL)
        os.waitpid(self.pids[1], 0)
        last = self._ask()
        os.kill(replacement, signal.SIGKILL)
        os.waitpid(replacement, 0)
        return {
            "answers of the family": answers <= family and bool(answers),
            "killed by": os.waitstatus_to_exitcode(status),
            "the replacement serves": last == f"{replacement} of {os.getpid()}".encode(),
        }


@behaviour
class Zombies(Behaviour):
    """Dead children that nobody has waited for keep their status; SIGCHLD still comes."""

    def set_up(self) -> None:
        self.signals = 0
        self.exited = os.fork()
        if self.exited == 0:
            os._exit(3)
        self.killed = os.fork()
        if self.killed == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        until(lambda: all(self._state(pid) == "Z" for pid in (self.exited, self.killed)))
        self.sleeper = os.fork()
        if self.sleeper == 0:
            signal.pause()
        signal.signal(signal.SIGCHLD, self._count)

    def _count(self, _number: int, _frame: object) -> None:
        self.signals += 1

    @staticmethod
    def _state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    def observe(self) -> Answer:
        states = [self._state(pid) for pid in (self.exited, self.killed)]
        codes = [
            os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in (self.exited, self.killed)
        ]
        os.kill(self.sleeper, signal.SIGTERM)
        told = until(lambda: self.signals > 0)
        _, status = os.waitpid(self.sleeper, 0)
        return {
            "states": states,
            "codes": codes,
            "SIGCHLD": told,
            "sleeper": os.waitstatus_to_exitcode(status),
        }


@behaviour
class Sessions(Behaviour):
    """Sessions, process groups, and an orphan adopted by a subreaper."""

    def set_up(self) -> None:
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.leader = os.fork()
        if self.leader == 0:
            os.setsid()
            signal.pause()
        self.grouped = os.fork()
        if self.grouped == 0:
            os.setpgid(0, 0)
            signal.pause()
        reader, writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            orphan = os.fork()
            if orphan == 0:
                signal.pause()
            os.write(writer, str(orphan).encode())
            os._exit(0)
        self.orphan = int(os.read(reader, 20))
        os.close(reader)
        os.close(writer)
        os.waitpid(middle, 0)
        until(lambda: os.getsid(self.leader) == self.leader)
        until(lambda: os.getpgid(self.grouped) == self.grouped)
        self.before = self._facts()

    def _facts(self) -> list[list[str]]:
        facts = []
        for pid in (os.getpid(), self.leader, self.grouped, self.orphan):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            facts.append(fields[1:4])
        return facts

    def observe(self) -> Answer:
        reaper = ctypes.c_int()
        call("prctl", PR_GET_CHILD_SUBREAPER, ctypes.byref(reaper), 0, 0, 0)
        same = self._facts() == self.before
        codes = []
        for pid in (self.leader, self.grouped, self.orphan):
            os.kill(pid, signal.SIGTERM)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return {
            "parents, groups, sessions": same,
            "subreaper": reaper.value,
            "codes": codes,
        }


@behaviour
class Subprocess(Behaviour):
    """A program of the image that runs behind pipes goes on with what it has read so far."""

    def set_up(self) -> None:
        self.process = subprocess.Popen(
            ["/bin/busybox", "awk", "{sum += $1; print sum; fflush()}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.ask(40)

    def ask(self, value: int) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{value}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def observe(self) -> Answer:
        total = self.ask(2)
        assert self.process.stdin is not None
        self.process.stdin.close()
        return {"sum": total, "code": self.process.wait(5)}


@behaviour
class Attributes(Behaviour):
    """Working directory, umask, limits, niceness, name, parent-death signal."""

    def set_up(self) -> None:
        self.directory = Path(scratch()) / "attributes" / "cwd"
        self.directory.mkdir(parents=True, exist_ok=True)
        os.chdir(self.directory)
        os.umask(0o037)
        resource.setrlimit(resource.RLIMIT_NOFILE, (777, 888))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 4096))
        resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, 8 << 20))
        os.nice(3)
        call("prctl", PR_SET_NAME, b"renamed", 0, 0, 0)
        call("prctl", PR_SET_PDEATHSIG, int(signal.SIGHUP), 0, 0, 0)
        Path("/proc/self/oom_score_adj").write_text("901")

    def observe(self) -> Answer:
        death = ctypes.c_int()
        call("prctl", PR_GET_PDEATHSIG, ctypes.byref(death), 0, 0, 0)
        umask = os.umask(0)
        limits = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_STACK)
        return {
            "cwd": os.getcwd(),
            "umask": umask,
            "limits": [list(resource.getrlimit(limit)) for limit in limits],
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "name": Path("/proc/self/comm").read_text().strip(),
            "death signal": death.value,
            "oom_score_adj": Path("/proc/self/oom_score_adj").read_text().strip(),
        }


@behaviour
class Credentials(Behaviour):
    """User, groups, capabilities and no_new_privs; of seccomp see tests/e2e/test_memory.py."""

    FIELDS = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Umask")

    def set_up(self) -> None:
        # A container without capabilities may do neither.
        attempt(lambda: os.setgroups([0, 4, 2000]))
        attempt(lambda: call("prctl", PR_CAPBSET_DROP, CAP_CHOWN, 0, 0, 0))
        if os.geteuid() == 0:
            call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
        self.before = self._read()

    def _read(self) -> list[str]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return [line for line in lines if line.startswith(self.FIELDS)]

    def observe(self) -> Answer:
        return {"before": self.before, "now": self._read()}


@behaviour
class Proc(Behaviour):
    """/proc/self tells the same: program, arguments, environment, descriptors, pid."""

    def set_up(self) -> None:
        self.devices = [os.open(f"/dev/{name}", os.O_RDWR) for name in ("null", "zero", "urandom")]
        self.proc = os.open("/proc/self/stat", os.O_RDONLY)
        self.before = self._read()

    def _read(self) -> dict[str, object]:
        me = Path("/proc/self")
        links = {
            entry.name: os.readlink(entry)
            for entry in (me / "fd").iterdir()
            if attempt(entry.stat) and os.path.lexists(entry)
        }
        return {
            "exe": os.readlink(me / "exe"),
            "root": os.readlink(me / "root"),
            "cwd": os.readlink(me / "cwd"),
            "cmdline": (me / "cmdline").read_bytes().hex(),
            "environ": (me / "environ").read_bytes().hex(),
            "fds": sorted(links),
            "devices": sorted(link for link in links.values() if link.startswith("/dev/")),
            "pid": [os.getpid(), os.getppid()],
            "NSpid": re.findall(r"^NSpid:.*?(\d+)$", (me / "status").read_text(), re.MULTILINE),
        }

    def observe(self) -> Answer:
        now = self._read()
        return {
            "differs": sorted(key for key in now if now[key] != self.before[key]),
            "zeros": os.read(self.devices[1], 4).hex(),
            "random": len(os.read(self.devices[2], 16)),
            "stat": int(os.pread(self.proc, 4096, 0).split()[0]) == os.getpid(),
            "maps": any("[stack]" in line for line in Path("/proc/self/maps").open()),
        }


@behaviour
class Pidfd(Behaviour):
    """A pidfd still names its process, and becomes readable when it ends."""

    def set_up(self) -> None:
        self.child = os.fork()
        if self.child == 0:
            signal.pause()
        self.fd = os.pidfd_open(self.child)

    def observe(self) -> Answer:
        early = select.select([self.fd], [], [], 0)[0] == []
        signal.pidfd_send_signal(self.fd, signal.SIGTERM)
        readable = select.select([self.fd], [], [], 5)[0] == [self.fd]
        return {
            "early": early,
            "readable": readable,
            "code": os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1]),
        }


@behaviour
class Stopped(Behaviour):
    """A process stopped by SIGSTOP."""

    def set_up(self) -> None:
        self.child = os.fork()
        if self.child == 0:
            signal.pause()
        os.kill(self.child, signal.SIGSTOP)
        os.waitpid(self.child, os.WUNTRACED)

    def observe(self) -> Answer:
        state = Path(f"/proc/{self.child}/stat").read_text().rpartition(")")[2].split()[0]
        os.kill(self.child, signal.SIGCONT)
        _, status = os.waitpid(self.child, os.WCONTINUED)
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        return {"state": state, "continued": os.WIFCONTINUED(status)}
