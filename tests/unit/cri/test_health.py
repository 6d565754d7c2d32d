from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cri.health import Health
from tests.unit.cri.fake_cri import run


async def good() -> str:
    return ""


async def bad() -> str:
    return "no answer"


async def ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


def test_ready_means_that_every_check_is_content() -> None:
    async def test() -> None:
        assert await Health({"a": good}).answer("/readyz?verbose") == (200, "[+] a\n")
        status, text = await Health({"a": good, "b": bad}).answer("/readyz")
        assert (status, text) == (503, "[+] a\n[-] b: no answer\n")
        assert (await Health({"b": bad}).answer("/healthz"))[0] == 200
        assert (await Health({}).answer("/metrics"))[0] == 404

    run(test())


@pytest.mark.parametrize(
    ("request_", "begins", "ends"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\nok\n"),
        (b"HEAD /healthz HTTP/1.0\r\nA: b\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"close\r\n\r\n"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 ", b"only GET and HEAD\n"),
        (b"garbage\r\n\r\n", b"", b""),
        (b"GET /healthz", b"", b""),
        (b"x" * 100_000, b"", b""),
    ],
)
def test_what_clients_send(tmp_path: Path, request_: bytes, begins: bytes, ends: bytes) -> None:
    async def test() -> None:
        health = Health({})
        path = tmp_path / "health.sock"
        await health.serve(str(path))
        try:
            answer = await ask(path, request_)
        except ConnectionError:  # hung up on while it still sent
            answer = b""
        assert answer.startswith(begins)
        assert answer.endswith(ends)
        assert bool(answer) is bool(begins)
        await health.stop()
        assert not path.exists()

    run(test())


def test_it_serves_on_a_port() -> None:
    async def test() -> None:
        health = Health({})
        await health.serve("127.0.0.1:0")
        assert health._server is not None
        host, port = health._server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"ok\n")
        writer.close()
        await writer.wait_closed()
        await health.stop()

    run(test())
