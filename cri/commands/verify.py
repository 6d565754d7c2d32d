"""``podthaw verify``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from cri import output
from cri.commands.common import Subparsers, add_reference, find, new_command, open_store
from cri.store import artifacts
from cri.units import human_size

_STEP = 1 << 30


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "verify",
        "Read a whole snapshot and compare every file with its digest in the manifest. The exit\n"
        "status is 1 when something is missing, altered, or not in the manifest.",
        "podthaw verify shop/embeddings",
    )
    add_reference(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Verify it."""
    store = open_store(args)
    digest = find(store, args.reference, args).digest
    manifest = store.manifest(digest)
    progress = Progress(manifest.size, sys.stderr.write if sys.stderr.isatty() else None)
    problems = artifacts.verify(store.folder(digest), manifest, progress.read)
    progress.end()
    artifacts.require(problems, digest)
    count = len(manifest.artifacts)
    output.say(f"{digest} is whole: {count} files, {human_size(manifest.size)}")
    return 0


class Progress:
    """Says how far it is, each GiB; ``write`` None says nothing, as where nobody watches."""

    def __init__(self, total: int, write: Callable[[str], object] | None) -> None:
        self._total = total
        self._done = 0
        self._write = write

    def read(self, count: int) -> None:
        """So many more bytes were read."""
        before, self._done = self._done, self._done + count
        if self._write and before // _STEP != self._done // _STEP:
            self._write(f"\r{human_size(self._done)} of {human_size(self._total)}")

    def end(self) -> None:
        """All was read."""
        if self._write and self._done >= _STEP:
            self._write("\n")
