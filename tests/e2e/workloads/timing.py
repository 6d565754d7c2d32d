"""Behaviours of clocks, timers and sleeping."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import subprocess
import threading
import time

from .behaviour import Answer, Behaviour, behaviour, call, until

CLOCK_MONOTONIC = 1
HOUR = 3600


@behaviour
class IntervalTimer(Behaviour):
    """setitimer: a periodic one goes on; one an hour ahead keeps what is left of it."""

    def set_up(self) -> None:
        self.ticks = 0
        signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        signal.setitimer(signal.ITIMER_VIRTUAL, HOUR)

    def _tick(self, _number: int, _frame: object) -> None:
        self.ticks += 1

    def observe(self) -> Answer:
        before = self.ticks
        left = signal.getitimer(signal.ITIMER_VIRTUAL)[0]
        return {
            "ticks": until(lambda: self.ticks > before + 3),
            "interval": round(signal.getitimer(signal.ITIMER_REAL)[1], 2),
            "an hour ahead": abs(HOUR - left) < 600,
        }


@behaviour
class Timerfd(Behaviour):
    """timerfd: a periodic one, one an hour ahead, and one that has fired and was not read."""

    def set_up(self) -> None:
        self.periodic = self._make(0.05, 0.05)
        self.far = self._make(HOUR, 0)
        self.fired = self._make(0.01, 0)
        select.select([self.fired], [], [], 5)

    @staticmethod
    def _make(first: float, interval: float) -> int:
        fd = call("timerfd_create", CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
        parts = [part for t in (interval, first) for part in (int(t), int(t % 1 * 1e9))]
        call("timerfd_settime", fd, 0, (ctypes.c_long * 4)(*parts), None)
        return fd

    def observe(self) -> Answer:
        left = (ctypes.c_long * 4)()
        call("timerfd_gettime", self.far, left)
        select.select([self.periodic], [], [], 5)
        os.read(self.periodic, 8)
        again = select.select([self.periodic], [], [], 5)[0] == [self.periodic]
        ready = select.select([self.fired], [], [], 0)[0] == [self.fired]
        return {
            "periodic": again,
            "an hour ahead": HOUR - 600 < left[2] <= HOUR,
            "fired": ready and struct.unpack("<Q", os.read(self.fired, 8))[0],
        }


@behaviour
class PosixTimer(Behaviour):
    """timer_create: a periodic timer that sends a signal."""

    def set_up(self) -> None:
        self.ticks = 0
        number = signal.SIGRTMIN + 5
        signal.signal(number, self._tick)
        # struct sigevent: value, signo, notify (SIGEV_SIGNAL is 0), then padding.
        event = ctypes.create_string_buffer(struct.pack("<Qii", 5, number, 0), 64)
        self.timer = ctypes.c_void_p()
        call("timer_create", CLOCK_MONOTONIC, event, ctypes.byref(self.timer))
        when = (ctypes.c_long * 4)(0, 50_000_000, 0, 50_000_000)
        call("timer_settime", self.timer, 0, when, None)

    def _tick(self, _number: int, _frame: object) -> None:
        self.ticks += 1

    def observe(self) -> Answer:
        before = self.ticks
        return {"ticks": until(lambda: self.ticks > before + 3)}


@behaviour
class Sleeping(Behaviour):
    """A short sleep in progress ends in time; a long one goes on; a wait for an event too."""

    def set_up(self) -> None:
        self.laps = 0
        self.short = threading.Thread(target=self._short, daemon=True)
        self.long = threading.Thread(target=time.sleep, args=(HOUR,), daemon=True)
        self.event = threading.Event()
        self.woken = threading.Event()
        self.waiter = threading.Thread(target=self._wait, daemon=True)
        for thread in (self.short, self.long, self.waiter):
            thread.start()
        self.program = subprocess.Popen(["/bin/busybox", "sleep", str(HOUR)])

    def _short(self) -> None:
        while True:
            time.sleep(0.5)
            self.laps += 1

    def _wait(self) -> None:
        if self.event.wait(HOUR):
            self.woken.set()

    def observe(self) -> Answer:
        before = self.laps
        laps = until(lambda: self.laps >= before + 2, 5)
        self.event.set()
        answer = {
            "laps": laps,
            "long": self.long.is_alive(),
            "program": self.program.poll() is None,
            "woken": self.woken.wait(5),
        }
        self.program.kill()
        self.program.wait()
        return answer


@behaviour
class Clocks(Behaviour):
    """The monotonic clock never goes back, and both clocks run at the same pace."""

    def set_up(self) -> None:
        self.monotonic = time.monotonic()
        self.boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.wall = time.time()
        self.cpu = time.process_time()

    def observe(self) -> Answer:
        monotonic, wall = time.monotonic(), time.time()
        time.sleep(0.2)
        pace = (time.monotonic() - monotonic) / max(time.time() - wall, 1e-6)
        return {
            "monotonic goes on": 0 <= monotonic - self.monotonic < HOUR,
            "boot time goes on": 0 <= time.clock_gettime(time.CLOCK_BOOTTIME) - self.boot < HOUR,
            "wall goes on": 0 < wall - self.wall < HOUR,
            "same pace": 0.8 < pace < 1.2,
            "year": time.gmtime().tm_year >= 2024,
        }
