"""Guarded memory against anonymous memory: the same calls, in any order, have the same results."""

from __future__ import annotations

import pytest

from tests.unit.shim.guard.conftest import Target

# Two processes would differ in other things as well: so both are areas of one, far apart, with
# room behind them. `both` makes a call on either and tells when the answers differ.
TWINS = """
import random
N, ROOM = 64, 256
libc.munmap(ctypes.c_ulong(base + N * PAGE), ctypes.c_ulong(size - N * PAGE))
other = base + 4096 * PAGE
assert libc.mmap(other, N * PAGE, 3, 0x100022, -1, 0) == other
ctypes.memmove(other, base, N * PAGE)
memory = os.open("/proc/self/mem", os.O_RDWR)
log = []

def both(what, number, page, *arguments):
    found = [call(number, at + page * PAGE, *arguments) for at in (base, other)]
    if number == 25:
        found = [one - at if one > 0 else one for one, at in zip(found, (base, other))]
    log.append((what, page, arguments, found))
    return found[0] == found[1]

def page_of(at, page):
    try:
        return os.pread(memory, PAGE, at + page * PAGE)
    except OSError as error:
        return error.errno

def same():
    return [page for page in range(ROOM) if page_of(base, page) != page_of(other, page)]

def protections():
    text, found = open("/proc/self/maps").read().splitlines(), []
    for at in (base, other):
        shown = ["none"] * ROOM
        for line in text:
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            for page in range(max(0, (start - at) // PAGE), min(ROOM, (end - at) // PAGE)):
                shown[page] = line.split()[1]
        found.append(shown)
    return found[0] == found[1]

def put(page, count, value):
    content = bytes([value]) * (count * PAGE - 100)
    for at in (base, other):
        try:
            os.pwrite(memory, content, at + page * PAGE + 50)
        except OSError:
            pass
    return True

ADVICE = [4, 4, 4, 24, 18, 19, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 23, 102, 103, 3, 9, 5]

def step(rng):
    page = rng.randrange(N)
    count = rng.choice([1, 1, 2, 3, 8, 20, N - page])
    kind = rng.randrange(12)
    if kind < 5:
        return both("madvise", 28, page, count * PAGE, rng.choice(ADVICE))
    if kind < 7:
        return put(page, count, rng.randrange(256))
    if kind == 7:
        return both("mprotect", 10, page, count * PAGE, rng.choice([0, 1, 3, 3, 3]))
    if kind == 8:
        return both("mlock", rng.choice([149, 150, 150]), page, count * PAGE)
    if kind == 9 and count < 20:
        return both("munmap", 11, page, count * PAGE)
    if kind == 10:
        new = rng.choice([count - 1, count, count + 1, count + 30])
        return both("mremap", 25, page, count * PAGE, new * PAGE, 0)
    if kind == 11:
        number = os.fork()
        if number == 0:
            wrong = not both("child", 28, page, count * PAGE, 4) or same()
            os._exit(1 if wrong else 0)
        return os.waitpid(number, 0)[1] == 0
    return True

def run(seed, count):
    rng = random.Random(seed)
    for number in range(count):
        if not step(rng) or same() or not protections():
            return [number, repr(log[-8:]), same(), protections()]
    return []
"""


@pytest.mark.parametrize("seed", range(24))
def test_the_same_calls_have_the_same_results(target: Target, seed: int) -> None:
    target(TWINS)
    assert target("same()") == []
    assert target(f"run({seed}, 60)") == []
