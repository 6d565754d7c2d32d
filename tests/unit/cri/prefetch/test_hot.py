from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.prefetch import hot
from cri.prefetch.hot import GAP, RUNS, Hot, HotPages, Run, decode, encode
from cri.prefetch.ranges import Range, merge, subtract, total

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
PAGE = 4096
SIZE = 1 << 30
samples = st.lists(
    st.lists(
        st.tuples(st.integers(0, 1000), st.integers(1, 60)).map(
            lambda one: (one[0] * PAGE, (one[0] + one[1]) * PAGE)
        ),
        max_size=8,
    ),
    max_size=5,
)


@pytest.fixture
def pages(tmp_path: Path) -> HotPages:
    return HotPages(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node" / "hot" / f"{'a' * 64}.json"


class TestTouched:
    def test_what_was_touched_first_comes_first(self) -> None:
        one = (
            Hot(size=SIZE).touched([(50 * GAP, 51 * GAP)]).touched([(0, GAP), (50 * GAP, 52 * GAP)])
        )
        assert one.ranges == ((50 * GAP, 51 * GAP), (0, GAP), (51 * GAP, 52 * GAP))

    def test_small_gaps_are_closed_so_that_reads_are_large(self) -> None:
        one = Hot(size=SIZE).touched([(0, PAGE), (2 * PAGE, 3 * PAGE), (100 * GAP, 101 * GAP)])
        assert one.ranges == ((0, 3 * PAGE), (100 * GAP, 101 * GAP))
        assert one.touched([(4 * PAGE, 5 * PAGE)]).ranges[2:] == ((3 * PAGE, 5 * PAGE),)

    def test_the_same_again_is_nothing_new(self) -> None:
        one = Hot(size=SIZE).touched([(0, PAGE), (9 * GAP, 10 * GAP)])
        assert one.touched([(0, PAGE), (9 * GAP, 10 * GAP)]) == one

    def test_what_lies_outside_of_the_file_does_not_count(self) -> None:
        beyond = [(SIZE - PAGE, SIZE + PAGE), (SIZE + GAP, SIZE + 2 * GAP)]
        one = Hot(size=SIZE).touched(beyond)
        assert one.ranges == ((SIZE - PAGE, SIZE),)
        assert Hot(size=0).touched(beyond).ranges == ()

    @given(samples)
    def test_everything_is_covered_once(self, looks: list[list[Range]]) -> None:
        one = Hot(size=SIZE)
        for look in looks:
            one = one.touched(look)
        assert subtract(merge(part for look in looks for part in look), merge(one.ranges)) == []
        assert total(merge(one.ranges)) == total(one.ranges)
        assert decode(encode(one), SIZE) == one

    def test_there_are_never_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hot, "_MOST", 8)
        one = Hot(size=SIZE)
        scattered = [(at * 3 * GAP, at * 3 * GAP + PAGE) for at in range(50)]
        for part in scattered:
            one = one.touched([part])
            assert len(one.ranges) <= 8
        assert subtract(scattered, merge(one.ranges)) == []


def ends(*numbers: int) -> list[Range]:
    """Ranges of a page, far from one another."""
    return [(number * 3 * GAP, number * 3 * GAP + PAGE) for number in numbers]


class TestRun:
    def test_what_comes_later_is_behind_what_came_first(self) -> None:
        run = Run(Hot(size=SIZE))
        run.look(ends(7), huge=0)
        run.look(ends(1, 7), huge=0)
        assert run.known == Hot(size=SIZE, ranges=(*ends(7), *ends(1)))

    def test_exact_runs_add_up(self) -> None:
        run = Run(Hot(size=SIZE, runs=1, ranges=tuple(ends(1))))
        run.look(ends(2), huge=0)
        assert run.known == Hot(size=SIZE, runs=1, ranges=(*ends(1), *ends(2)))

    def test_a_rough_one_is_better_than_nothing(self) -> None:
        run = Run(Hot(size=SIZE))
        run.look(ends(2), huge=PAGE)
        assert run.known == Hot(size=SIZE, ranges=tuple(ends(2)), exact=False)

    def test_rough_ones_add_up(self) -> None:
        run = Run(Hot(size=SIZE, runs=1, ranges=tuple(ends(1)), exact=False))
        run.look(ends(2), huge=PAGE)
        assert run.known == Hot(size=SIZE, runs=1, ranges=(*ends(1), *ends(2)), exact=False)

    def test_an_exact_one_takes_the_place_of_rough_ones_and_counts_anew(self) -> None:
        run = Run(Hot(size=SIZE, runs=2, ranges=tuple(ends(1)), exact=False))
        run.look(ends(2), huge=0)
        assert run.known == Hot(size=SIZE, ranges=tuple(ends(2)))

    def test_a_rough_one_spoils_nothing(self) -> None:
        before = Hot(size=SIZE, runs=1, ranges=tuple(ends(1)))
        run = Run(before)
        run.look(ends(2), huge=0)
        run.look(ends(2, 3), huge=PAGE)
        assert run.known == before

    def test_a_little_roughness_does_not_matter(self) -> None:
        run = Run(Hot(size=SIZE))
        run.look(ends(*range(20)), huge=PAGE)
        assert run.known.exact

    def test_when_enough_is_known(self) -> None:
        assert Run(Hot(size=SIZE, runs=RUNS)).is_needless
        assert not Run(Hot(size=SIZE, runs=RUNS, exact=False)).is_needless
        assert not Run(Hot(size=SIZE, runs=RUNS - 1)).is_needless


class TestFile:
    def test_comes_back(self, pages: HotPages, file: Path) -> None:
        assert pages.get(DIGEST, SIZE) == Hot(size=SIZE)
        one = Hot(size=SIZE).touched([(0, PAGE)]).watched()
        pages.put(DIGEST, one)
        assert pages.get(DIGEST, SIZE) == one
        assert one.runs == 1
        assert file.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in file.parent.iterdir()] == [file.name]

    def test_of_another_size_it_is_none(self, pages: HotPages) -> None:
        pages.put(DIGEST, Hot(size=SIZE, runs=3))
        assert pages.get(DIGEST, SIZE + PAGE) == Hot(size=SIZE + PAGE)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"[" * 100_000,
            b"\xff",
            b"null",
            b'{"size":1,"runs":1}',
            b'{"size":SIZE,"runs":1,"exact":true,"ranges":[[0]]}',
            b'{"size":SIZE,"runs":1,"exact":true,"ranges":[[0,1,2]]}',
            b'{"size":SIZE,"runs":1,"exact":true,"ranges":[[5,5]]}',
            b'{"size":SIZE,"runs":1,"exact":true,"ranges":[[-5,5]]}',
            b'{"size":SIZE,"runs":1,"exact":true,"ranges":[["a","b"]]}',
            b'{"size":SIZE,"runs":1,"exact":true,"ranges":[[0,1e3]]}',
            b'{"size":SIZE,"runs":1,"exact":true,"ranges":[[0,9],[8,10]]}',
            b'{"size":SIZE,"runs":true,"exact":true,"ranges":[]}',
            b'{"size":SIZE,"runs":1,"exact":true,"ranges":[[0,SIZE0]]}',
            b'{"size":SIZE,"runs":1,"exact":true,"ranges":7}',
            b'{"size":SIZE,"runs":1,"exact":1,"ranges":[]}',
        ],
    )
    def test_a_damaged_one_is_none(self, pages: HotPages, file: Path, content: bytes) -> None:
        file.parent.mkdir(parents=True)
        file.write_bytes(content.replace(b"SIZE", str(SIZE).encode()))
        assert pages.get(DIGEST, SIZE) == Hot(size=SIZE)

    def test_a_huge_one_is_none(self, pages: HotPages, file: Path) -> None:
        pages.put(DIGEST, Hot(size=SIZE, runs=1))
        file.write_bytes(file.read_bytes() + b" " * (1 << 20))
        assert pages.get(DIGEST, SIZE).runs == 0

    def test_a_link_is_not_followed(self, pages: HotPages, file: Path, tmp_path: Path) -> None:
        pages.put(DIGEST, Hot(size=SIZE, runs=1))
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
        assert pages.get(DIGEST, SIZE).runs == 0

    def test_what_cannot_be_written_leaves_nothing(self, pages: HotPages, file: Path) -> None:
        file.mkdir(parents=True)
        with pytest.raises(OSError, match="directory"):
            pages.put(DIGEST, Hot(size=SIZE))
        assert list(file.parent.iterdir()) == [file]

    def test_it_goes_with_its_snapshot(self, pages: HotPages, file: Path) -> None:
        pages.keep_only([])  # no folder yet
        for digest in (DIGEST, OTHER):
            pages.put(digest, Hot(size=SIZE, runs=1))
        foreign = file.with_name("readme")
        foreign.touch()
        pages.keep_only([OTHER])
        assert {path.name for path in file.parent.iterdir()} == {"b" * 64 + ".json", "readme"}

    @given(
        st.binary(max_size=200)
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(
            lambda value: json.dumps(
                {"size": SIZE, "runs": 1, "exact": False, "ranges": value}
            ).encode()
        )
    )
    def test_whatever_it_holds_is_no_error(self, content: bytes) -> None:
        found = decode(content, SIZE)
        assert found is None or decode(encode(found), SIZE) == found
