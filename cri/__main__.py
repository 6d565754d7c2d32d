"""The ``podthaw`` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 good, 1 failed, 2 wrong usage, 130 Ctrl-C."""
    try:
        from cri.cli import run  # noqa: PLC0415 - Ctrl-C while it loads is no traceback either

        return run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
