from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cri.proto import cri_pb2 as pb
from cri.rpc import RpcError, StatusCode
from tests.unit.cri.daemon import FakeCall, Node, run


class TestCheckpointContainer:
    def request(self, location: str = "/tmp/x.tar", timeout: int = 0) -> bytes:
        return pb.CheckpointContainerRequest(
            container_id="c1", location=location, timeout=timeout
        ).SerializeToString()

    def capturing(self, tmp_path: Path, script: str) -> Node:
        program = tmp_path / "capture"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        node = Node(tmp_path, capture=[str(program)])
        node.runtime.exits["c1"] = (0.0, 0)  # it is known, and runs
        return node

    def test_an_unknown_container_is_what_containerd_calls_it(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, f"touch {tmp_path}/ran")
        node.runtime.exits.clear()
        with pytest.raises(RpcError, match="no such container") as caught:
            node.serve(FakeCall("CheckpointContainer", self.request(), b""))
        assert caught.value.code == StatusCode.NOT_FOUND
        assert not (tmp_path / "ran").exists()

    def test_it_is_a_capture_into_the_place_that_was_asked_for(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, f'echo "$@" > {tmp_path}/arguments')
        call = FakeCall("CheckpointContainer", self.request(timeout=7), b"")
        assert node.serve(call) == b""
        assert call.forwarded is None
        assert (tmp_path / "arguments").read_text().split() == [
            "--container-id",
            "c1",
            "--export",
            "/tmp/x.tar",
            "--timeout",
            "7s",
        ]

    def test_the_last_line_of_a_failure_is_the_message(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, "echo one >&2; echo 'podthaw: it is paused' >&2; exit 1")
        with pytest.raises(RpcError) as caught:
            node.serve(FakeCall("CheckpointContainer", self.request(), b""))
        assert caught.value.message == "podthaw: it is paused"
        assert caught.value.code is StatusCode.FAILED_PRECONDITION

    def test_the_sentence_is_the_message_and_not_its_details(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, "printf 'podthaw: it is paused\\n  more\\n' >&2; exit 1")
        with pytest.raises(RpcError) as caught:
            node.serve(FakeCall("CheckpointContainer", self.request(), b""))
        assert caught.value.message == "podthaw: it is paused"

    def test_a_failure_without_words_still_says_something(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, "exit 3")
        with pytest.raises(RpcError, match="the capture ended with status 3"):
            node.serve(FakeCall("CheckpointContainer", self.request(), b""))

    def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        node = Node(tmp_path, capture=[str(tmp_path / "none")])
        node.runtime.exits["c1"] = (0.0, 0)
        with pytest.raises(RpcError, match="cannot be run: No such file"):
            node.serve(FakeCall("CheckpointContainer", self.request(), b""))

    def test_a_relative_location_is_refused(self, tmp_path: Path) -> None:
        node = self.capturing(tmp_path, "exit 0")
        with pytest.raises(RpcError, match="must be an absolute path, found 'x'"):
            node.serve(FakeCall("CheckpointContainer", self.request("x"), b""))

    def test_a_caller_that_goes_away_ends_the_capture(self, tmp_path: Path) -> None:
        script = (
            f"trap 'touch {tmp_path}/ended; exit 1' TERM; touch {tmp_path}/began\n"
            "while :; do sleep 0.05; done"
        )
        node = self.capturing(tmp_path, script)
        call = FakeCall("CheckpointContainer", self.request(), b"")

        async def work() -> None:
            task = asyncio.ensure_future(node.interceptor.hooks()[call.method](call))
            while not (tmp_path / "began").exists():  # noqa: ASYNC110 - a file tells
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(work())
        assert (tmp_path / "ended").exists()

    @pytest.mark.parametrize("turns", range(12))
    def test_a_caller_that_goes_away_at_once_kills_nothing(
        self, tmp_path: Path, turns: int
    ) -> None:
        script = (
            f"trap 'touch {tmp_path}/ended; exit 1' TERM; touch {tmp_path}/began\n"
            "while :; do sleep 0.05; done"
        )
        node = self.capturing(tmp_path, script)
        call = FakeCall("CheckpointContainer", self.request(), b"")

        async def work() -> None:
            task = asyncio.ensure_future(node.interceptor.hooks()[call.method](call))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(work())
        assert (tmp_path / "ended").exists() or not (tmp_path / "began").exists()
