"""``podthaw proxy`` as a process."""

# ruff: noqa: ARG001  # a handler has the arguments that gRPC gives it
from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cri.config import Settings
from cri.daemon import check_containerd_socket, link_runtime, lock, make_private
from cri.proto import cri_pb2 as pb
from shim.errors import Refused
from tests.unit.cri.fake_cri import RUNTIME, FakeCri, channel, listen, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the daemon is root's")


HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture(autouse=True)
def _run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODTHAW_RUN", str(tmp_path / "run"))


def config(folder: Path, more: str = "") -> Path:
    path = folder / "config.toml"
    path.write_text(
        f'version = 3\n[grpc]\naddress = "{folder}/containerd.sock"\n'
        f'[plugins."dev.podthaw.v1"]\nstate = "{folder}/state"\n'
        f'runtime = "/bin/true"\n{more}\n'
    )
    return path


def command(path: Path) -> list[str]:
    return [sys.executable, "-m", "cri", "--config", str(path), "proxy"]


@asynccontextmanager
async def daemon(
    path: Path, *, listener: socket.socket | None = None, notify: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The daemon, ready; stopped at the end if it still runs."""
    program = command(path)
    if listener is not None:  # as systemd does it
        program = [sys.executable, "-c", HAND_OVER, str(listener.fileno()), *program]
    address = notify or path.parent / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.setblocking(False)  # noqa: FBT003
        process = await asyncio.create_subprocess_exec(
            *program,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "200000"},
            pass_fds=() if listener is None else (listener.fileno(),),
        )
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(20):
                assert await loop.sock_recv(manager, 100) in {b"READY=1", b"WATCHDOG=1"}
                # One comes at once and the other follows: alive, and then still alive.
                said = {await loop.sock_recv(manager, 100) for _ in range(3)}
                assert b"WATCHDOG=1" in said
            yield process
        finally:
            address.unlink()
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                raise
            finally:
                assert process.stderr is not None
                print((await process.stderr.read()).decode())  # pytest shows it of a failed test


async def version(request: bytes, context: Any) -> bytes:
    return pb.VersionResponse(runtime_name="fake").SerializeToString()


@asynccontextmanager
async def fake(folder: Path) -> AsyncIterator[FakeCri]:
    cri = FakeCri(folder / "containerd.sock")
    cri.unary("Version", version)
    await cri.start()
    try:
        yield cri
    finally:
        await cri.stop()


async def http(path: Path, target: str) -> str:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return text


def test_it_serves_tells_its_health_and_stops(tmp_path: Path) -> None:
    async def test() -> None:
        async with fake(tmp_path), daemon(config(tmp_path)) as process:
            folder = tmp_path / "run"
            assert stat.S_IMODE((folder / "podthaw.sock").stat().st_mode) == 0o600
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert (folder / "runtime").readlink() == Path("/bin/true")
            async with channel(folder / "podthaw.sock") as client:
                answer = await client.unary_unary(RUNTIME + "Version")(b"")
                assert pb.VersionResponse.FromString(answer).runtime_name == "fake"
            assert (await http(folder / "health.sock", "/healthz")).startswith("HTTP/1.1 200")
            ready = await http(folder / "health.sock", "/readyz")
            assert ready.startswith("HTTP/1.1 200")
            assert "[+] containerd" in ready
            assert "404" in await http(folder / "health.sock", "/else")
            with pytest.raises(subprocess.CalledProcessError) as second:
                await asyncio.to_thread(
                    subprocess.run,
                    command(tmp_path / "config.toml"),
                    check=True,
                    capture_output=True,
                    text=True,
                )
            assert f"runs already, as process {process.pid}" in second.value.stderr
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10) == 0
            assert not (folder / "health.sock").exists()

    run(test())


def test_it_starts_before_containerd(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(config(tmp_path)):
            path = tmp_path / "run/podthaw.sock"
            async with channel(path) as client:
                method = client.unary_unary(RUNTIME + "Version")
                with pytest.raises(grpc.aio.AioRpcError) as failure:
                    await method(b"")
                assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
                ready = await http(tmp_path / "run/health.sock", "/readyz")
                assert ready.startswith("HTTP/1.1 503")
                assert "No such file" in ready
                async with fake(tmp_path):
                    assert await method(b"", wait_for_ready=True, timeout=10)

    run(test())


def test_a_restart_under_socket_activation_fails_no_call(tmp_path: Path) -> None:
    async def test() -> None:
        path = config(tmp_path)
        (tmp_path / "run").mkdir(mode=0o700)
        shared = tmp_path / "run/podthaw.sock"
        with listen(shared) as listener:
            # Connections may wait as long as those of grpc-go, kubelet's gRPC, do.
            patient = {"grpc.min_reconnect_backoff_ms": 20_000}
            async with fake(tmp_path) as cri, channel(shared, **patient) as client:
                slow_begun = asyncio.Event()

                async def slow(request: bytes, context: Any) -> bytes:
                    slow_begun.set()
                    await asyncio.sleep(1)
                    return b"slow"

                cri.unary("Slow", slow)
                calls, stop = 0, asyncio.Event()

                async def keep_asking() -> None:
                    nonlocal calls
                    while not stop.is_set():
                        await client.unary_unary(RUNTIME + "Version")(b"", timeout=20)
                        calls += 1

                async with daemon(path, listener=listener) as first:
                    asking = asyncio.ensure_future(keep_asking())
                    in_flight = asyncio.ensure_future(client.unary_unary(RUNTIME + "Slow")(b""))
                    await slow_begun.wait()
                    first.send_signal(signal.SIGTERM)
                    assert await asyncio.wait_for(first.wait(), 10) == 0
                    assert await in_flight == b"slow"
                between = calls
                async with daemon(path, listener=listener):
                    await asyncio.sleep(0.5)
                    stop.set()
                    await asyncio.wait_for(asking, 20)  # would raise what a call has raised
                assert calls > between > 0
        assert shared.exists()  # it is systemd's

    run(test())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('tcp = "open"', 'tcp: wanted one of "close", "established", found "open"'),
        ('runtime = "no-such-runtime"', 'found no program "no-such-runtime"'),
    ],
)
def test_a_wrong_configuration_is_one_sentence(tmp_path: Path, more: str, told: str) -> None:
    path = config(tmp_path)
    text = path.read_text()
    if more.startswith("runtime"):
        text = text.replace('runtime = "/bin/true"', "")
    path.write_text(text + more + "\n")
    done = subprocess.run(command(path), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/podthaw.sock").exists()


def test_containerds_socket_must_be_a_socket_if_it_is_there(tmp_path: Path) -> None:
    check_containerd_socket(tmp_path / "absent")
    (tmp_path / "file").touch()
    for name, found in (("file", "found a file"), (".", "found a directory")):
        with pytest.raises(Refused, match=found):
            check_containerd_socket(tmp_path / name)
    with listen(tmp_path / "good"):
        check_containerd_socket(tmp_path / "good")


def test_its_log_is_json_when_asked(tmp_path: Path) -> None:
    async def test() -> None:
        path = config(tmp_path, 'log_format = "json"')
        process = await asyncio.create_subprocess_exec(
            *command(path), stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        first = json.loads(await process.stderr.readline())
        second = json.loads(await process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert first["level"] == "warning"  # containerd is not there yet
        assert second["files"] == [str(path)]

    run(test())


def test_a_run_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """They could put their own program in place of the OCI runtime."""
    make_private(tmp_path / "new/run")
    assert (tmp_path / "new/run").stat().st_mode & 0o777 == 0o700
    make_private(tmp_path / "new/run")
    for mode in (0o777, 0o1777, 0o770):
        (tmp_path / "new/run").chmod(mode)
        with pytest.raises(Refused, match=f"user 0 with mode {mode:04o}: wanted user 0 and mode"):
            make_private(tmp_path / "new/run")
    (tmp_path / "new/run").chmod(0o755)
    make_private(tmp_path / "new/run")
    os.chown(tmp_path / "new/run", 1000, 1000)
    with pytest.raises(Refused, match="belongs to user 1000"):
        make_private(tmp_path / "new/run")
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="cannot be made: File exists"):
        make_private(tmp_path / "file")


def test_what_stands_in_the_way_of_lock_and_link_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "proxy.lock").mkdir()
    with pytest.raises(Refused, match=r"proxy\.lock cannot be made: Is a directory"):
        lock(tmp_path / "proxy.lock")
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(Refused, match="Too many levels of symbolic links"):
        lock(tmp_path / "link")
    (tmp_path / "runtime").mkdir()
    settings = Settings(containerd="/c", run=tmp_path, runtime="/bin/true")
    with pytest.raises(Refused, match="runtime cannot be made: Is a directory"):
        link_runtime(settings)
