from __future__ import annotations

from cri.index import Index
from cri.records import Record
from tests.unit.cri.test_records import decision


def test_records_are_found_by_container_and_by_sandbox() -> None:
    index, first, second = Index(), decision(sandbox_id="s"), decision(sandbox_id="s")
    index.add(Record(decision=first, container_id="c1"))
    index.add(Record(decision=second))
    assert index.of_container("c1") == first.id
    assert index.of_container("c2") is None
    assert set(index.of_sandbox("s")) == {first.id, second.id}
    assert index.of_sandbox("t") == ()


def test_a_removed_container_is_still_known_by_its_sandbox() -> None:
    index, one = Index(), decision(sandbox_id="s")
    index.add(Record(decision=one, container_id="c1"))
    index.remove_container("c1")
    assert index.of_container("c1") is None
    assert index.of_sandbox("s") == (one.id,)


def test_nothing_stays_of_what_was_removed() -> None:
    index, one, two = Index(), decision(sandbox_id="s"), decision(sandbox_id="t")
    index.add(Record(decision=one, container_id="c1"))
    index.add(Record(decision=two, container_id="c2"))
    index.remove_sandbox("s")
    index.remove(Record(decision=two, container_id="c2"))
    index.remove(Record(decision=two, container_id="c2"))
    index.remove_sandbox("s")
    assert vars(index) == vars(Index())
