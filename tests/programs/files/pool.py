# ruff: noqa: INP001 - scripts of an image, no package
"""A multiprocessing pool over a shared memory block; the parent answers HTTP."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing import shared_memory
from typing import Any

import answering  # type: ignore[import-not-found]  # beside this file in the image

SIZE = 1 << 20
shared: list[Any] = []
"""A worker's lock and counter."""


def initialize(*given: object) -> None:
    """Keep what the parent shares."""
    shared.extend(given)


def memory(block: shared_memory.SharedMemory) -> memoryview:
    """Its bytes."""
    assert block.buf is not None
    return block.buf


def work(name: str, part: int) -> int:
    """The sum of a quarter of the block."""
    lock, done = shared
    block = shared_memory.SharedMemory(name=name)
    total = sum(memory(block)[part * SIZE // 4 : (part + 1) * SIZE // 4])
    block.close()
    with lock:
        done.value += 1
    return total


def main() -> None:
    lock = multiprocessing.Lock()
    done = multiprocessing.Value("i", 0)
    block = shared_memory.SharedMemory(create=True, size=SIZE)
    memory(block)[:SIZE] = bytes(range(256)) * (SIZE // 256)
    pool = multiprocessing.Pool(4, initialize, (lock, done))

    def answer() -> object:
        total = sum(pool.starmap(work, [(block.name, part) for part in range(4)], chunksize=1))
        first = (memory(block)[0] + 1) % 256
        memory(block)[0] = first
        return {"total": total, "done": done.value, "first": first}

    def end() -> None:
        pool.terminate()
        block.close()
        block.unlink()

    answering.serve(answer, end)


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    main()
