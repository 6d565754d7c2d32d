from __future__ import annotations

from datetime import UTC, datetime

import pytest

from examples.demo.starts import NoAnswer, asked

LOG = """\
I1124 10:03:10.000001   77 kuberuntime_manager.go:1] "Creating container in pod" \
containerType="init container" container="a" pod="default/embeddings-1-n1"
E1124 10:03:11.000001   77 other.go:1] "Creating container in pod" pod="default/embeddings-1-n1"
I1124 10:03:12.250000   77 kuberuntime_manager.go:1] "Creating container in pod" \
containerType="container" container="embeddings" pod="default/embeddings-1-n1"
I1124 10:03:13.000000   77 kuberuntime_manager.go:1] "Creating container in pod" \
containerType="container" container="embeddings" pod="default/embeddings-11-n1"
"""


def at(second: float) -> float:
    return datetime(2026, 11, 24, 10, 3, tzinfo=UTC).timestamp() + second


def test_finds_the_first_line_of_this_pod_after_the_manifest() -> None:
    assert asked(LOG, "embeddings-1-n1", since=at(11.5)) == pytest.approx(at(12.25))


def test_an_earlier_start_of_the_same_name_does_not_count() -> None:
    with pytest.raises(NoAnswer, match="embeddings-1-n1"):
        asked(LOG, "embeddings-1-n1", since=at(12.5))


def test_a_name_is_no_pattern() -> None:
    with pytest.raises(NoAnswer):
        asked(LOG, "embeddings.1.n1", since=at(0))
