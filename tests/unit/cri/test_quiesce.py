# a handler has the arguments that gRPC gives it
"""The hooks around a capture, before a workload that is this test."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.capture import Options
from cri.proto import cri_pb2 as pb
from cri.quiesce import Hooks, quiesced
from cri.target import Target
from shim.dumprun import CaptureFailed
from shim.errors import Refused, Unfit
from shim.hooks import Hook
from tests.unit.cri.fake_cri import FakeCri
from tests.unit.cri.test_manifesting import target


@contextmanager
def workload() -> Iterator[tuple[int, list[str]]]:
    """A server on the loopback: its port and the paths it was asked for.

    /bad… is answered with 500, /hang… never.
    """
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            held = []
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    path = connection.recv(4096).decode().split(" ")[1]
                    asked.append(path)
                    if path.startswith("/hang"):
                        held.append(connection)
                        continue
                    code = 500 if path.startswith("/bad") else 200
                    connection.sendall(f"HTTP/1.1 {code} x\r\n\r\n".encode())
                    connection.close()
            for one in held:
                one.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1], asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def container(folder: Path, **annotations: str) -> Target:
    """A container of a pod with the node's network."""
    found = target(folder)
    found.sandbox.network.ip = ""
    for key, value in annotations.items():
        found.sandbox.annotations["podthaw.dev/" + key.replace("_", "-")] = value
    return found


def options(folder: Path, **more: Any) -> Options:
    return Options(run=folder, **more)


def test_the_hooks_of_the_pod(tmp_path: Path) -> None:
    assert Hooks.of(container(tmp_path)) == Hooks()
    found = container(tmp_path, before_capture="exec:/rest", after_restore="signal:USR2")
    found.sandbox.annotations["podthaw.dev/before-capture.main"] = "http:80/rest"
    assert Hooks.of(found) == Hooks(before=Hook("http", "80/rest"), after=Hook("signal", "USR2"))


@pytest.mark.parametrize("key", ["before_capture", "after_restore"])
def test_a_malformed_hook_is_refused_before_anything(tmp_path: Path, key: str) -> None:
    with pytest.raises(Refused, match=f"podthaw.dev/{key.replace('_', '-')} is 'file:/x', wanted"):
        Hooks.of(container(tmp_path, **{key: "file:/x"}))


def test_a_workload_is_told_and_woken(tmp_path: Path) -> None:
    with workload() as (port, asked):
        hooks = Hooks(before=Hook("http", f"{port}/rest"), after=Hook("http", f"{port}/wake"))
        with quiesced(container(tmp_path), hooks, options(tmp_path, timeout=9.0)) as told:
            assert asked == ["/rest"]
            assert 0 < told.left < 9
        assert asked == ["/rest", "/wake"]
    assert list(told.phases) == ["hook", "wake"]
    assert told.warnings == []


def test_a_workload_that_did_not_rest_is_not_woken(tmp_path: Path) -> None:
    with workload() as (port, asked):
        hooks = Hooks(after=Hook("http", f"{port}/wake"))
        with quiesced(container(tmp_path), hooks, options(tmp_path, timeout=9.0)) as told:
            assert told.left == 9
    assert asked == []
    assert told.phases == {}


def test_who_rests_without_a_hook_to_wake_it_sees_to_itself(tmp_path: Path) -> None:
    with workload() as (port, asked):
        hooks = Hooks(before=Hook("http", f"{port}/rest"))
        with quiesced(container(tmp_path), hooks, options(tmp_path)) as told:
            pass
    assert asked == ["/rest"]
    assert list(told.phases) == ["hook"]


@pytest.mark.parametrize(
    ("path", "words"),
    [("bad", "was answered with status 500"), ("hang", "was not done within 0.3 seconds")],
)
def test_a_hook_that_fails_fails_the_capture_and_wakes(
    tmp_path: Path, path: str, words: str
) -> None:
    with workload() as (port, asked):
        hooks = Hooks(before=Hook("http", f"{port}/{path}"), after=Hook("http", f"{port}/wake"))
        begun = time.monotonic()
        with (
            pytest.raises(CaptureFailed, match="before-capture failed, nothing was frozen: ") as e,
            quiesced(container(tmp_path), hooks, options(tmp_path, timeout=0.3)),
        ):
            pytest.fail("the capture went on")
        assert time.monotonic() - begun < 5
    assert words in str(e.value)
    assert asked == [f"/{path}", "/wake"]


@pytest.mark.parametrize("error", [Unfit("no"), KeyboardInterrupt(), OSError("no")])
@pytest.mark.parametrize("stop", [False, True])
def test_a_capture_that_fails_wakes_the_workload(
    tmp_path: Path, error: BaseException, *, stop: bool
) -> None:
    with workload() as (port, asked):
        hooks = Hooks(before=Hook("http", f"{port}/rest"), after=Hook("http", f"{port}/wake"))
        with (
            pytest.raises(type(error)),
            quiesced(container(tmp_path), hooks, options(tmp_path, stop=stop)),
        ):
            raise error
    assert asked == ["/rest", "/wake"]


def test_a_container_that_ended_with_its_capture_is_not_woken(tmp_path: Path) -> None:
    with workload() as (port, asked):
        hooks = Hooks(before=Hook("http", f"{port}/rest"), after=Hook("http", f"{port}/wake"))
        with quiesced(container(tmp_path), hooks, options(tmp_path, stop=True)):
            pass
    assert asked == ["/rest"]


def test_who_cannot_be_woken_is_told_of(tmp_path: Path) -> None:
    with workload() as (port, _):
        hooks = Hooks(before=Hook("http", f"{port}/rest"), after=Hook("http", f"{port}/bad"))
        with quiesced(container(tmp_path), hooks, options(tmp_path)) as told:
            pass
        (warning,) = told.warnings
        assert "may still be as podthaw.dev/before-capture left it" in str(warning)
        assert "status 500" in str(warning)
        failure = Unfit("the dump failed", detail="a line")
        with (
            pytest.raises(Unfit) as caught,
            quiesced(container(tmp_path), hooks, options(tmp_path)),
        ):
            raise failure
    assert str(caught.value) == "the dump failed"
    assert caught.value.detail.startswith("a line\nthe captured container: it may still be")


# -- exec: by containerd ----------------------------------------------------------------------


async def exec_sync(request: bytes, context: Any) -> bytes:
    asked = pb.ExecSyncRequest.FromString(request)
    assert asked.container_id == "c1"
    match asked.cmd[0]:
        case "hang":
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "timeout 1s exceeded")
        case "absent":
            await context.abort(grpc.StatusCode.UNKNOWN, "executable file not found")
        case "fails":
            answer = pb.ExecSyncResponse(exit_code=3, stdout=b"x\n" * 9999, stderr=b"so \xff\n")
            return answer.SerializeToString()
    assert list(asked.cmd) == ["good", "a b"]
    return pb.ExecSyncResponse().SerializeToString()


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[str]:
    """The path of a containerd's socket, served by another thread."""
    loop, path = asyncio.new_event_loop(), tmp_path / "containerd.sock"
    cri = FakeCri(path)
    cri.unary("ExecSync", exec_sync)
    loop.run_until_complete(cri.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield str(path)
    asyncio.run_coroutine_threadsafe(cri.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("fails", "exec:fails ended with status 3: so"),
        ("hang", "exec:hang was not done within 7 seconds"),
        ("absent", "absent was not run in the container: executable file not found"),
    ],
)
def test_programs_that_fail(tmp_path: Path, containerd: str, command: str, words: str) -> None:
    chosen = options(tmp_path, containerd=containerd, timeout=7.0)
    with (
        pytest.raises(CaptureFailed, match=words),
        quiesced(container(tmp_path), Hooks(before=Hook("exec", command)), chosen),
    ):
        pytest.fail("the capture went on")


def test_a_program_that_succeeds(tmp_path: Path, containerd: str) -> None:
    chosen = options(tmp_path, containerd=containerd)
    hooks = Hooks(before=Hook("exec", "good 'a b'"))
    with quiesced(container(tmp_path), hooks, chosen) as told:
        pass
    assert list(told.phases) == ["hook"]


def test_containerd_is_gone(tmp_path: Path) -> None:
    chosen = options(tmp_path, containerd=str(tmp_path / "absent.sock"))
    with (
        pytest.raises(CaptureFailed, match=r"containerd cannot be reached|was not run"),
        quiesced(container(tmp_path), Hooks(before=Hook("exec", "good")), chosen),
    ):
        pytest.fail("the capture went on")


def test_a_signal_for_a_process_that_has_been_replaced(tmp_path: Path) -> None:
    found = container(tmp_path)
    found = replace(found, container=replace(found.container, started=1))
    with (
        pytest.raises(CaptureFailed, match="has no receiver: the first process is gone"),
        quiesced(found, Hooks(before=Hook("signal", "USR1")), options(tmp_path)),
    ):
        pytest.fail("the capture went on")
