"""Peers that mean harm or are broken: their connection ends, memory stays bounded, others go on."""

from __future__ import annotations

import asyncio
import resource
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cri import side
from cri.http2 import frames, hpack
from cri.relay import Relay
from cri.rpc import Call, ResponseFilter, RpcError, UnaryHook
from cri.runtime_client import SyncRuntimeClient
from tests.unit.cri.fake_cri import RUNTIME, Pair, channel, listen, pair, run

HOOKED = RUNTIME + "Hooked"


class Hooks:
    """One hooked method that forwards, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def hooks(self) -> Mapping[str, UnaryHook]:
        return {HOOKED: self._hook}

    def filters(self) -> Mapping[str, ResponseFilter]:
        return {}

    async def _hook(self, call: Call) -> bytes:
        self.calls += 1
        return await call.forward()


def request(stream: int, method: str = "Any", *more: tuple[bytes, bytes]) -> bytes:
    """The headers of a call."""
    headers = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", (RUNTIME + method).encode()),
        (b":authority", b"localhost"), (b"te", b"trailers"),
        (b"content-type", b"application/grpc"), *more,
    ]  # fmt: skip
    return frames.headers(stream, hpack.encode(headers), end_stream=False)


def data(stream: int, content: bytes, *, end: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream, content)


HELLO = frames.PREFACE + frames.settings({})
BIG = b"x" * 16384


def bomb() -> bytes:
    """A header block of a mebibyte that means four gibibytes of headers."""
    value = b"v" * 4000
    entry = b"\x40\x01n" + b"\x7f" + _rest(len(value) - 127) + value
    return entry + b"\xbe" * (1 << 20)


def _rest(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def continued(block: bytes, pieces: int) -> bytes:
    """A header block that goes on and on."""
    first = frames.frame(frames.HEADERS, 0, 1, block)
    return first + frames.frame(frames.CONTINUATION, 0, 1) * pieces


ATTACKS = {
    "a frame larger than announced": HELLO + struct.pack(">I", 0xFFFFFF)[1:] + b"\0\0\0\0\0\1",
    "continuations without end": HELLO + continued(b"", 5000),
    "a continuation larger than announced": HELLO
    + frames.frame(frames.HEADERS, 0, 1) + b"\xff\xff\xff\x09\0\0\0\0\1",
    "headers that are a bomb": HELLO + frames.headers(1, bomb(), end_stream=False),
    "data after the end of a hooked request": HELLO + request(1, "Hooked")
    + data(1, bytes(5), end=True) + data(1, bytes(5), end=True),
    "trailers after a hooked request": HELLO + request(1, "Hooked") + request(1, "Hooked"),
    "a window update of three octets": HELLO + frames.frame(frames.WINDOW_UPDATE, 0, 0, b"abc"),
    "settings of five octets": HELLO + frames.frame(frames.SETTINGS, 0, 0, b"abcde"),
    "padding beyond the frame": HELLO
    + frames.frame(frames.HEADERS, frames.PADDED | frames.END_HEADERS, 1, b"\xff"),
    "an index beyond the table": HELLO + frames.headers(1, b"\xff\xff\x01", end_stream=False),
    "half a preface and something else": b"PRI * HTTP/2.0\r\n\r\nXX",
    "the preface of HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}  # fmt: skip


async def hung_up(path: Path, attack: bytes) -> None:
    """Send it; the connection must end."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(attack)
    with suppress(OSError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def still_serves(p: Pair) -> None:
    """Other clients notice nothing."""

    async def echo(content: bytes, _context: Any) -> bytes:
        return content

    p.cri.unary("Echo", echo)
    p.cri.unary("Hooked", echo)
    other: Any = channel(p.path)
    assert await other.unary_unary(RUNTIME + "Echo")(b"1" * 100_000) == b"1" * 100_000
    assert await other.unary_unary(HOOKED)(b"2") == b"2"
    await other.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_ends_its_connection_only(
    tmp_path: Path, attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with pair(tmp_path, Hooks()) as p:
            before = peak()
            await hung_up(p.path, ATTACKS[attack])
            assert peak() - before < 100 << 20
            await still_serves(p)

    run(test())
    assert "Traceback" not in caplog.text


@asynccontextmanager
async def swallowing(folder: Path) -> AsyncIterator[tuple[Path, bytearray]]:
    """A relay before a containerd that takes all and grants nothing: its socket, what came."""
    got = bytearray()
    ended = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.settings({}))
        with suppress(OSError):
            while piece := await reader.read(1 << 16):
                got.extend(piece)
        writer.close()
        ended.append(writer.wait_closed())

    server = await asyncio.start_unix_server(swallow, str(folder / "containerd.sock"))
    relay = Relay(str(folder / "containerd.sock"), Hooks())
    await relay.serve(listen(folder / "podthaw.sock"))
    yield folder / "podthaw.sock", got
    await relay.stop(0.1)
    server.close()
    await asyncio.gather(*ended, return_exceptions=True)


def test_a_client_that_sends_more_than_the_window_is_hung_up_on(tmp_path: Path) -> None:
    """What containerd has no window for would wait here, without end."""

    async def test() -> None:
        async with swallowing(tmp_path) as (path, got):
            await hung_up(path, HELLO + request(1) + data(1, BIG) * 64)
            assert len(got) < frames.DEFAULT_WINDOW + 1000

    run(test())


def peak() -> int:
    """The most memory that this process has had, octets."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_client_that_never_reads_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each octet of a hooked request is credited at once; the credits must not pile up."""
    monkeypatch.setattr(side, "MAX_UNREAD", 1 << 20)

    async def test() -> None:
        async with swallowing(tmp_path) as (path, _):
            _, writer = await asyncio.open_unix_connection(str(path))
            stuck: Any = writer.transport
            stuck.pause_reading()
            writer.write(HELLO)
            with pytest.raises(OSError):  # noqa: PT011, PT012
                for stream in range(1, 200_000, 2):
                    # A message that is too large at its prefix: an answer, a reset, a credit.
                    writer.write(request(stream, "Hooked") + data(stream, b"\0\xff\xff\xff\xff"))
                    await writer.drain()

    run(test())
    assert "does not read its answers" in caplog.text


def test_windows_that_stay_shut_hold_only_what_they_may(tmp_path: Path) -> None:
    """A client that grants nothing gets nothing, and its calls end with it."""

    async def test() -> None:
        hooks = Hooks()
        async with pair(tmp_path, hooks) as p:
            ended = asyncio.Event()

            async def large(_content: bytes, _context: Any) -> bytes:
                ended.set()
                return bytes(8 << 20)

            p.cri.unary("Hooked", large)
            shut = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
            reader, writer = await asyncio.open_unix_connection(str(p.path))
            writer.write(shut + request(1, "Hooked") + data(1, bytes(5), end=True))
            await asyncio.wait_for(ended.wait(), 10)
            await asyncio.sleep(0.2)
            got = await asyncio.wait_for(reader.read(1 << 20), 5)
            assert len(got) < 1000
            await still_serves(p)
            writer.close()
            for _ in range(100):
                if not p.relay.connections:
                    break
                await asyncio.sleep(0.02)
            assert p.relay.calls == 0

    run(test())


class Answering(Hooks):
    """The hooked method is answered here, with more than a window holds at first."""

    async def _hook(self, _call: Call) -> bytes:
        return bytes(300_000)


def test_a_larger_window_counts_when_it_is_acknowledged(tmp_path: Path) -> None:
    """RFC 9113 section 6.5.3: gRPC's C core breaks a connection on DATA that comes before."""

    async def test() -> None:
        acknowledge = asyncio.Event()

        async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(frames.settings({}))
            await acknowledge.wait()
            writer.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
            with suppress(OSError):
                await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(late, str(tmp_path / "containerd.sock"))
        relay = Relay(str(tmp_path / "containerd.sock"), Answering())
        await relay.serve(listen(tmp_path / "podthaw.sock"))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "podthaw.sock"))
        hello = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20})
        hello += frames.window_update(0, 1 << 20)
        writer.write(hello + request(1, "Hooked") + data(1, bytes(5), end=True))
        before = await frames_until(reader, lambda _: False, 0.3)
        acknowledge.set()
        after = await frames_until(reader, lambda seen: octets(seen) >= 200_000, 10)
        writer.close()
        await relay.stop(0.1)
        server.close()
        assert octets(before) == frames.DEFAULT_WINDOW
        assert (frames.SETTINGS, frames.ACK, 0) not in before
        assert after[0] == (frames.SETTINGS, frames.ACK, 0)

    run(test())


Seen = list[tuple[int, int, int]]
"""Kind, flags and length of frames."""


def octets(seen: Seen) -> int:
    """How much DATA came."""
    return sum(size for kind, _, size in seen if kind == frames.DATA)


async def frames_until(
    reader: asyncio.StreamReader, enough: Callable[[Seen], bool], limit: float
) -> Seen:
    """The frames that come, until there are enough or so many seconds are over."""
    seen: Seen = []
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            while not enough(seen):
                head = await reader.readexactly(frames.HEAD)
                size = int.from_bytes(head[:3])
                await reader.readexactly(size)
                seen.append((head[3], head[4], size))
    return seen


def test_a_client_that_disappears_in_the_middle(tmp_path: Path) -> None:
    """Half a request, half a header, half a preface: nothing stays of any."""

    async def test() -> None:
        hooks = Hooks()
        async with pair(tmp_path, hooks) as p:
            whole = HELLO + request(1, "Hooked") + data(1, b"\0\0\0\0\5abcde", end=True)
            for length in range(0, len(whole), 7):
                _, writer = await asyncio.open_unix_connection(str(p.path))
                writer.write(whole[:length])
                await writer.drain()
                writer.transport.abort()
            for _ in range(250):
                if not p.relay.connections:
                    break
                await asyncio.sleep(0.02)
            assert p.relay.connections == p.relay.calls == 0
            assert hooks.calls == 0
            await still_serves(p)

    run(test())


def test_many_idle_connections(tmp_path: Path) -> None:
    async def test() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
        before = peak()
        try:
            async with pair(tmp_path, Hooks()) as p:
                writers = []
                for _ in range(500):
                    _, writer = await asyncio.open_unix_connection(str(p.path))
                    writer.write(HELLO[:-3])
                    writers.append(writer)
                await still_serves(p)
                assert peak() - before < 200 << 20
                for writer in writers:
                    writer.transport.abort()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(test())


JUNK = {
    "nothing": b"",
    "HTTP/1": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(100),
    "a frame without end": frames.settings({}) + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "an answer without headers": frames.settings({}) + data(1, b"\0\0\0\0\0", end=True),
    "trailers that are none": frames.settings({}) + frames.headers(1, b"\xff", end_stream=True),
    "a compressed answer of zeros": frames.settings({})
    + frames.headers(1, hpack.encode([(b":status", b"200")]), end_stream=False)
    + data(1, b"\1\0\0\0\3abc")
    + frames.headers(1, hpack.encode([(b"grpc-status", b"0")]), end_stream=True),
    "a message that is no protobuf": frames.settings({})
    + frames.headers(1, hpack.encode([(b":status", b"200")]), end_stream=False)
    + data(1, b"\0\0\0\0\3\xff\xff\xff")
    + frames.headers(1, hpack.encode([(b"grpc-status", b"0")]), end_stream=True),
    "a status that is none": frames.settings({})
    + frames.headers(1, hpack.encode([(b"grpc-status", b"many")]), end_stream=True),
}


@pytest.mark.parametrize("junk", JUNK)
def test_a_containerd_that_answers_junk(tmp_path: Path, junk: str) -> None:
    """The client sees an error, and so do we ourselves; nobody waits for ever."""
    path = tmp_path / "containerd.sock"

    async def test() -> None:
        writers = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await reader.read(10)
            writer.write(JUNK[junk])
            if junk == "nothing":
                writer.close()

        server = await asyncio.start_unix_server(answer, str(path))
        relay = Relay(str(path), Hooks())
        await relay.serve(listen(tmp_path / "podthaw.sock"))
        client: Any = channel(tmp_path / "podthaw.sock")
        for method in ("Any", "Hooked"):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.unary_unary(RUNTIME + method)(b"", timeout=2)
        await client.close()

        def ask() -> None:
            with SyncRuntimeClient(str(path), timeout=1) as cri, pytest.raises(RpcError):
                cri.version()

        await asyncio.to_thread(ask)
        await relay.stop(0.1)
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(one.wait_closed() for one in writers), return_exceptions=True)

    run(test())
