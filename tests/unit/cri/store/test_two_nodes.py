"""Two nodes with one store: what one has pinned, the other cannot take away."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from cri.store import Force, Policy, Store, artifacts
from shim.errors import PodthawError
from tests.unit.cri.store.making import publish

REPOSITORY = Path(__file__).resolve().parents[4]
SECONDS = 4.0
OVER = "over"
"""A file beside the store: nothing is restored any more."""


def restore(root: Path, number: int) -> None:
    """Pins, reads all, unpins; fails when what is pinned is not whole."""
    store = Store(root, node=f"node-{number}")
    plan_id = f"{number:032x}"
    end = time.monotonic() + SECONDS
    done = 0
    while time.monotonic() < end or done < 10:
        for digest in set(store.names().values()):
            try:
                store.pin(digest, store.plan_pin(plan_id))
            except PodthawError:
                continue
            problems = artifacts.verify(store.folder(digest), store.manifest(digest))
            if problems:
                sys.exit(f"{digest} is pinned and {problems}")
            if not store.unpin(digest, store.plan_pin(plan_id)):
                sys.exit(f"the pin of {digest} is gone")
            done += 1
    print(done)


def remove(root: Path, number: int) -> None:
    """Publishes, names, collects and removes, until the restores have seen enough of it."""
    store = Store(root, node=f"node-{number}")
    removed = 0
    while removed < 3 or not (root.parent / OVER).exists():
        for seed in "abc":
            try:
                store.set_name("shop", seed, publish(store, seed))
            except PodthawError:
                continue
        removed += len(store.gc(Policy(max_count=1)).removals)
        for digest in set(store.names().values()):
            try:
                store.remove(digest, force=Force(names=True))
            except PodthawError:
                continue
            removed += 1
    print(removed)


def start(work: str, root: Path, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__, work, str(root), str(number)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_is_pinned_stays_whole_whatever_others_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.create()
    nodes = [start("restore", store.root, 1), start("restore", store.root, 2)]
    nodes += [start("remove", store.root, 3), start("remove", store.root, 4)]
    try:
        results = [node.communicate(timeout=120) for node in nodes[:2]]
        (tmp_path / OVER).touch()
        results += [node.communicate(timeout=120) for node in nodes[2:]]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0, 0, 0], results
    assert [err for _, err in results] == [""] * 4
    assert all(int(out) >= 3 for out, _ in results), results
    assert all(one.problem == "" for one in store.snapshots())
    assert list((store.root / "tmp").iterdir()) == []
    assert [path for path in (store.root / "pins").rglob("*") if path.is_file()] == []


if __name__ == "__main__":
    {"restore": restore, "remove": remove}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
