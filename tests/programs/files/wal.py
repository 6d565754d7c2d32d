# ruff: noqa: INP001 - scripts of an image, no package
"""SQLite in WAL mode: a writer and a reader process with an open read transaction, over HTTP."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import answering  # type: ignore[import-not-found]  # beside this file in the image

PATH = sys.argv[1]


def connect() -> sqlite3.Connection:
    """A connection of its own."""
    found = sqlite3.connect(PATH, isolation_level=None, timeout=5)
    found.execute("PRAGMA journal_mode=WAL")
    return found


def read() -> None:
    """See what was there at the beginning, for ever."""
    base = connect()
    base.execute("BEGIN")
    base.execute("SELECT count(*) FROM t").fetchone()
    print("reading", flush=True)
    for _ in sys.stdin:
        print(base.execute("SELECT count(*) FROM t").fetchone()[0], flush=True)


def main() -> None:
    base = connect()
    base.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
    base.execute("INSERT INTO t VALUES (1)")
    reader = subprocess.Popen(
        [sys.executable, __file__, PATH, "reader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert reader.stdin
    assert reader.stdout
    question, seen = reader.stdin, reader.stdout
    seen.readline()

    def answer() -> object:
        base.execute("INSERT INTO t SELECT max(n) + 1 FROM t")
        question.write("\n")
        old = int(seen.readline())
        new, top = base.execute("SELECT count(*), max(n) FROM t").fetchone()
        fine = base.execute("PRAGMA integrity_check").fetchone()[0]
        second = connect()
        other = second.execute("SELECT count(*) FROM t").fetchone()[0]
        second.close()
        return {"reader": old, "rows": new, "top": top, "other": other, "check": fine}

    answering.serve(answer, reader.kill)


if __name__ == "__main__":
    read() if sys.argv[2:] else main()
