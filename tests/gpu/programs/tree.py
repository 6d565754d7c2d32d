"""A tree of processes of which only the children use CUDA: ``tree.py CHILDREN MIB``.

The first process never touches the driver; it passes on what its children print. A step is the
sums of all children at that step.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import telling


def main() -> None:
    """Run for ever."""
    telling.start()
    program = str(Path(__file__).with_name("driver.py"))
    children = [
        subprocess.Popen(
            [sys.executable, "-B", program, str((number + 1) * int(sys.argv[2]))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(int(sys.argv[1]))
    ]
    sums: list[dict[int, str]] = [{} for _ in children]
    number, said = 0, False
    while True:
        for child, found in zip(children, sums, strict=True):
            while number + 1 not in found:
                assert child.stdout is not None
                document = json.loads(child.stdout.readline())
                if "step" in document:
                    found[document["step"]] = document["sum"]
        if not said:
            telling.ready()
            said = True
        number += 1
        telling.step(number, "-".join(found.pop(number) for found in sums))


main()
