"""What every program of these tests prints: one JSON document a line.

The first line, ``{"start": …}``, is printed by a program that starts from the beginning, and never
by one that was restored. Then one line a step, whose sum depends on all memory and all steps
before it: two programs that print the same sum at the same step have the same state.
"""

from __future__ import annotations

import json
import sys
import time

PACE = 0.01
"""Seconds between two steps."""


def start(**facts: object) -> None:
    """Say that this program starts from the beginning."""
    _say({"start": time.time(), **facts})


def ready(**facts: object) -> None:
    """Say that the first step follows: all is loaded."""
    _say({"ready": time.time(), **facts})


def step(number: int, digest: str) -> None:
    """Say what came out of a step, and wait for the next."""
    _say({"step": number, "sum": digest})
    time.sleep(PACE)


def _say(document: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
