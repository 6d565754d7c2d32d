from __future__ import annotations

import json

import pytest

from cri.images import entrypoint_and_cmd


def info(config: object) -> dict[str, str]:
    return {"info": json.dumps({"chainID": "sha256:1", "imageSpec": {"config": config}})}


def test_entrypoint_and_command_of_a_verbose_answer() -> None:
    assert entrypoint_and_cmd(info({"Entrypoint": ["/a"], "Cmd": ["b"]})) == (["/a"], ["b"])


def test_an_image_may_have_neither() -> None:
    assert entrypoint_and_cmd(info({"Entrypoint": None})) == ([], [])


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"info": "no JSON"},
        {"info": "[]"},
        {"info": '{"imageSpec": null}'},
        info([1]),
        info({"Cmd": [1]}),
        info({"Cmd": 5}),
    ],
)
def test_an_answer_that_does_not_tell(answer: dict[str, str]) -> None:
    assert entrypoint_and_cmd(answer) is None
