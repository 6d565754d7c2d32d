from __future__ import annotations

from pathlib import Path

from cri.prefetch.order import steps
from cri.prefetch.reading import Step
from shim.snapshot import Artifact

FOLDER = Path("/store/one")
MIB = 1 << 20
SIZES = {
    "images/core-1.img": 900,
    "images/empty.img": 0,
    "images/pages-1.img": 300 * MIB,
    "memory.json": 500,
    "pages": 1000 * MIB,
    "pages.sums": 700,
    "rootfs.tar": 10 * MIB,
}
ARTIFACTS = [Artifact(path=path, size=size, sha256="0" * 64) for path, size in SIZES.items()]
STORED = [(0, 100), (200, 900)]


def step(name: str, path: str, *ranges: tuple[int, int]) -> Step:
    return Step(
        name=name, path=FOLDER / path, ranges=list(ranges), fine=name == "hot", waits=name == "rest"
    )


SMALL = [
    step("images", "images/core-1.img", (0, 900)),
    step("images", "rootfs.tar", (0, 10 * MIB)),
]
LARGE = step("large", "images/pages-1.img", (0, 300 * MIB))


def test_all_in_order() -> None:
    found = steps(FOLDER, ARTIFACTS, stored=STORED, hot=[(500, 600), (50, 250)])
    assert found == [
        *SMALL,
        step("hot", "pages", (500, 600), (50, 100), (200, 250)),
        LARGE,
        step("rest", "pages", (0, 50), (250, 500), (600, 900)),
    ]


def test_of_which_nothing_is_known_yet() -> None:
    assert steps(FOLDER, ARTIFACTS, stored=STORED) == [
        *SMALL, LARGE, step("rest", "pages", *STORED)
    ]  # fmt: skip


def test_when_nearly_all_is_hot_the_first_half_is() -> None:
    found = steps(FOLDER, ARTIFACTS, stored=STORED, hot=[(500, 800), (0, 100), (300, 500)])
    assert found == [
        *SMALL,
        step("hot", "pages", (500, 800), (0, 100)),
        LARGE,
        step("rest", "pages", (300, 500), (200, 300), (800, 900)),
    ]


def test_a_snapshot_without_mapped_memory() -> None:
    artifacts = [one for one in ARTIFACTS if one.path.startswith(("images", "rootfs"))]
    assert steps(FOLDER, artifacts, hot=[(0, 10)]) == [*SMALL, LARGE]


def test_less_than_all() -> None:
    found = steps(FOLDER, ARTIFACTS, stored=STORED, hot=[(0, 100)], mode="hot")
    assert found == [*SMALL, step("hot", "pages", (0, 100)), LARGE]
    assert steps(FOLDER, ARTIFACTS, stored=STORED, hot=[(0, 100)], mode="none") == []
