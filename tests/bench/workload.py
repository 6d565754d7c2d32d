"""The measured server: so much memory full of random bytes, and answers that touch some of it.

    python3 workload.py MEBIBYTES

    GET /                      touches nothing
    GET /touch/SHARE/RUN/read  reads one byte in each page of SHARE (0 to 1) of the memory, in
                               pieces of RUN pages that lie evenly over all of it
    GET /touch/SHARE/RUN/write writes one byte in each of them

The answer to a touch is the CRC-32 of a byte of each of these pages, so that whoever asks a
restored server and the one that was captured can compare. It runs in a container: standard library
only, one thread, and little else in memory.
"""

import mmap
import os
import socket
import sys
import zlib

PORT = 8080
PAGE = 4096
BLOCK = 16 << 20
"""Bytes of true randomness."""
STEP = 40961
"""Each further block is the first one turned by so many bytes more: no two pages are equal."""


def fill(size: int) -> mmap.mmap:
    """Memory of so many bytes, all of it written."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block = os.urandom(BLOCK)
    twice = memoryview(block + block)
    for number, start in enumerate(range(0, size, BLOCK)):
        turned = number * STEP % BLOCK
        length = min(BLOCK, size - start)
        memory[start : start + length] = twice[turned : turned + length]
    return memory


def pieces(pages: int, share: float, run: int) -> list[tuple[int, int]]:
    """First and last + 1 page of each piece."""
    if share >= 1:
        return [(0, pages)]
    count = max(1, int(pages * share / run))
    starts = [number * pages // count for number in range(count)]
    return [(start, min(pages, start + run)) for start in starts]


def touch(memory: mmap.mmap, share: float, run: int, *, write: bool) -> int:
    """Touch each page of the pieces; the CRC-32 of their first bytes."""
    crc = 0
    for first, last in pieces(len(memory) // PAGE, share, run):
        here = slice(first * PAGE, last * PAGE, PAGE)
        if write:
            second = slice(here.start + 1, here.stop, PAGE)
            memory[second] = b"\1" * (last - first)
        crc = zlib.crc32(memory[here], crc)
    return crc


def answer(memory: mmap.mmap, path: str) -> str:
    """What a GET of this path is answered with."""
    words = path.strip("/").split("/")
    if words[0] != "touch":
        return "ready"
    share, run, how = float(words[1]), int(words[2]), words[3]
    return f"{touch(memory, share, run, write=how == 'write'):08x}"


def serve(memory: mmap.mmap) -> None:
    """Answer one request after the other, for ever."""
    with socket.create_server(("", PORT), backlog=64) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    more = connection.recv(4096)
                    if not more:
                        break
                    request += more
                else:
                    body = answer(memory, request.split()[1].decode())
                    head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                    connection.sendall((head + body).encode())


if __name__ == "__main__":
    serve(fill(int(sys.argv[1]) << 20))
