"""The same without a GPU, for a dry run of the tests: memory of some MiB, summed at each step."""

from __future__ import annotations

import hashlib
import sys

import telling


def main() -> None:
    """Run for ever: ``plain.py MIB``."""
    telling.start()
    memory = bytearray(b"podthaw!" * (int(sys.argv[1]) << 17))
    telling.ready()
    number = 0
    while True:
        number += 1
        digest = hashlib.sha256(memory).hexdigest()
        position = number * 4099 % len(memory)
        memory[position : position + 1] = digest[:1].encode()
        telling.step(number, digest)


main()
