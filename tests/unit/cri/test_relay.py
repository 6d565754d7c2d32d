"""Whatever gRPC can express crosses the relay as if it were not there."""

# ruff: noqa: ARG001  # a handler has the arguments that gRPC gives it
from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.unit.cri.fake_cri import RUNTIME, channel, pair, run


async def outcome(call: Any) -> tuple[Any, ...]:
    """Everything a client can see of a call."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return (error.code(), error.details(), tuple(error.trailing_metadata() or ()))
    return (answer, tuple(await call.initial_metadata()), tuple(await call.trailing_metadata()))


def test_metadata_crosses_in_both_directions(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:
            seen = []

            async def answer(request: bytes, context: Any) -> bytes:
                seen.append(list(context.invocation_metadata()))
                await context.send_initial_metadata((("early", "1"), ("early-bin", b"\x00\xff")))
                context.set_trailing_metadata((("late", "2"), ("late-bin", b"\xfe")))
                return request[::-1]

            p.cri.unary("Any", answer)
            metadata = (("k", "v"), ("k", "w"), ("raw-bin", bytes(range(256))))
            got = []
            for side in (p.direct, p.relayed):
                call = side.unary_unary(RUNTIME + "Any")(b"abc", metadata=metadata)
                got.append(await outcome(call))
            assert got[0] == got[1]
            assert got[1][0] == b"cba"
            assert ("late-bin", b"\xfe") in got[1][2]
            assert seen[0] == seen[1]
            assert ("raw-bin", bytes(range(256))) in seen[1]

    run(test())


def test_status_message_and_details_cross(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:

            async def answer(request: bytes, context: Any) -> bytes:
                code = next(c for c in grpc.StatusCode if c.value[0] == request[0])
                details = (("grpc-status-details-bin", b"\x08\x05\x12\x03abc"),)
                await context.abort(code, "Grund: 50 % ü\n", details)
                return b""

            p.cri.unary("Fail", answer)
            for code in range(1, 17):
                direct, relayed = [
                    await outcome(side.unary_unary(RUNTIME + "Fail")(bytes([code])))
                    for side in (p.direct, p.relayed)
                ]
                assert direct == relayed
                assert relayed[0].value[0] == code
                assert relayed[1] == "Grund: 50 % ü\n"
                assert ("grpc-status-details-bin", b"\x08\x05\x12\x03abc") in relayed[2]
            unknown = [
                await outcome(side.unary_unary("/some.v9.Service/Unknown")(b""))
                for side in (p.direct, p.relayed)
            ]
            assert unknown[0] == unknown[1]
            assert unknown[1][0] is grpc.StatusCode.UNIMPLEMENTED

    run(test())


def test_a_deadline_crosses(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:
            ended = asyncio.Event()
            remaining = []

            async def answer(request: bytes, context: Any) -> bytes:
                remaining.append(context.time_remaining())
                try:
                    await asyncio.sleep(30)
                finally:
                    ended.set()
                return request

            p.cri.unary("Slow", answer)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await p.unary("Slow")(b"", timeout=0.5)
            assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert 0 < remaining[0] < 0.6
            await asyncio.wait_for(ended.wait(), 5)

    run(test())


def test_a_cancelled_call_is_cancelled_at_the_server(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:
            begun, cancelled = asyncio.Event(), asyncio.Event()

            async def answer(request: bytes, context: Any) -> bytes:
                begun.set()
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise
                return request

            p.cri.unary("Slow", answer)
            call = p.unary("Slow")(b"")
            await begun.wait()
            call.cancel()
            await asyncio.wait_for(cancelled.wait(), 5)
            assert p.relay.calls == 0

    run(test())


def test_a_call_cancelled_by_the_server_is_cancelled_at_the_client(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:

            async def answer(request: bytes, context: Any) -> bytes:
                await context.abort(grpc.StatusCode.CANCELLED, "by the server")
                return request

            p.cri.unary("Quit", answer)
            result = await outcome(p.unary("Quit")(b""))
            assert result[:2] == (grpc.StatusCode.CANCELLED, "by the server")

    run(test())


def test_messages_up_to_16_mib_pass_and_larger_fail_as_they_do_directly(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:

            async def echo(request: bytes, context: Any) -> bytes:
                return request

            async def big(request: bytes, context: Any) -> bytes:
                return bytes(int(request))

            p.cri.unary("Echo", echo)
            p.cri.unary("Big", big)
            whole = bytes(range(256)) * ((16 << 20) // 256)
            assert await p.unary("Echo")(whole) == whole
            too_big = bytes((16 << 20) + 1)
            # A client without a limit of its own, so that the server's is met.
            options = {"grpc.max_send_message_length": -1, "grpc.max_receive_message_length": -1}
            direct, relayed = channel(p.cri.path, **options), channel(p.path, **options)
            for method, request in (("Echo", too_big), ("Big", b"%d" % len(too_big))):
                seen = [
                    await outcome(side.unary_unary(RUNTIME + method)(request))
                    for side in (direct, relayed)
                ]
                assert seen[0] == seen[1]
                assert seen[1][0] is grpc.StatusCode.RESOURCE_EXHAUSTED
            await direct.close()
            await relayed.close()

    run(test())


def test_streams_of_every_kind(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:

            async def total(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
                yield b"%d" % sum([len(request) async for request in requests])

            async def count(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
                async for request in requests:
                    for number in range(int(request)):
                        yield b"%d" % number

            p.cri.handlers |= {"Total": total, "Count": count}

            async def pieces() -> AsyncIterator[bytes]:
                for _ in range(50):
                    yield bytes(100_000)

            upload = p.relayed.stream_unary(RUNTIME + "Total")
            assert await upload(pieces()) == b"5000000"
            download = p.relayed.unary_stream(RUNTIME + "Count")(b"300")
            assert [message async for message in download] == [b"%d" % n for n in range(300)]
            both = p.relayed.stream_stream(RUNTIME + "Count")()
            for size in (2, 0, 3):  # an answer comes before the next request is sent
                await both.write(b"%d" % size)
                for number in range(size):
                    assert await both.read() == b"%d" % number
            await both.done_writing()
            assert await both.read() is grpc.aio.EOF

    run(test())


def test_a_slow_reader_slows_the_server_down(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:
            sent = 0

            async def flood(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
                nonlocal sent
                for _ in range(200):
                    yield bytes(1 << 20)
                    sent += 1

            p.cri.handlers["Flood"] = flood
            call = p.relayed.unary_stream(RUNTIME + "Flood")(b"")
            await call.read()
            await asyncio.sleep(1)
            assert sent < 40  # what the windows and the buffers of two hops take
            rest = 0
            while await call.read() is not grpc.aio.EOF:
                rest += 1
            assert rest == 199

    run(test())


def test_many_calls_at_once_on_one_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:

            async def echo(request: bytes, context: Any) -> bytes:
                await asyncio.sleep(0.001 * (request[0] % 7))
                return request

            p.cri.unary("Echo", echo)
            requests = [bytes([n % 256]) * (1 + n * 331 % 40_000) for n in range(300)]
            answers = await asyncio.gather(*(p.unary("Echo")(request) for request in requests))
            assert answers == requests

    run(test())


def test_compressed_calls_pass(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:

            async def echo(request: bytes, context: Any) -> bytes:
                context.set_compression(grpc.Compression.Gzip)
                return request

            p.cri.unary("Echo", echo)
            call = p.unary("Echo")(bytes(100_000), compression=grpc.Compression.Gzip)
            assert await call == bytes(100_000)

    run(test())


def test_containerd_may_come_later_and_come_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path, start=False) as p:

            async def echo(request: bytes, context: Any) -> bytes:
                return request

            for side in (p.direct, p.relayed):
                result = await outcome(side.unary_unary(RUNTIME + "Echo")(b"x"))
                assert result[0] is grpc.StatusCode.UNAVAILABLE
            p.cri.unary("Echo", echo)
            for _ in range(2):
                await p.cri.start()
                assert await p.unary("Echo")(b"x", wait_for_ready=True, timeout=5) == b"x"
                await p.cri.stop()
                result = await outcome(p.unary("Echo")(b"x"))
                assert result[0] is grpc.StatusCode.UNAVAILABLE

    run(test())


def test_calls_in_flight_fail_when_containerd_dies(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:
            begun = asyncio.Event()

            async def answer(request: bytes, context: Any) -> bytes:
                begun.set()
                await asyncio.sleep(30)
                return request

            p.cri.unary("Slow", answer)
            call = asyncio.ensure_future(outcome(p.unary("Slow")(b"")))
            await begun.wait()
            await p.cri.stop()
            code = (await asyncio.wait_for(call, 5))[0]
            assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}

    run(test())


def test_a_stop_lets_calls_end_and_refuses_new_connections(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:
            begun, go = asyncio.Event(), asyncio.Event()

            async def answer(request: bytes, context: Any) -> bytes:
                begun.set()
                await go.wait()
                return b"done"

            async def events(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
                yield b"event"
                await asyncio.sleep(60)

            p.cri.unary("Slow", answer)
            p.cri.handlers["GetContainerEvents"] = events
            watch = p.relayed.unary_stream(RUNTIME + "GetContainerEvents")(b"")
            assert await watch.read() == b"event"
            call = asyncio.ensure_future(outcome(p.unary("Slow")(b"")))
            await begun.wait()
            stopping = asyncio.ensure_future(p.relay.stop(20))
            await asyncio.sleep(0.1)
            with (
                socket.socket(socket.AF_UNIX) as late,
                pytest.raises(ConnectionRefusedError),
            ):
                late.connect(str(p.path))
            assert not stopping.done()
            go.set()
            assert (await call)[0] == b"done"
            await asyncio.wait_for(stopping, 5)  # the endless call does not hold it up

    run(test())


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:
            begun = asyncio.Event()

            async def answer(request: bytes, context: Any) -> bytes:
                begun.set()
                await asyncio.sleep(60)
                return b""

            p.cri.unary("Slow", answer)
            call = asyncio.ensure_future(outcome(p.unary("Slow")(b"")))
            await begun.wait()
            await asyncio.wait_for(p.relay.stop(0.2), 5)
            assert (await call)[0] is grpc.StatusCode.UNAVAILABLE

    run(test())


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"PRI * HTTP/2.0\r\nx"]
)
def test_a_client_that_speaks_no_http2_is_hung_up_on(tmp_path: Path, garbage: bytes) -> None:
    async def test() -> None:
        async with pair(tmp_path):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "podthaw.sock"))
            writer.write(garbage)
            await asyncio.wait_for(reader.read(), 5)  # to the end; containerd may greet before
            writer.close()
            await writer.wait_closed()

    run(test())


def test_the_relay_leaves_no_connection_behind(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as p:

            async def echo(request: bytes, context: Any) -> bytes:
                return request

            p.cri.unary("Echo", echo)
            for _ in range(3):
                one = channel(p.path)
                assert await one.unary_unary(RUNTIME + "Echo")(b"1") == b"1"
                await one.close()
            for _ in range(100):
                if not p.relay.connections:
                    break
                await asyncio.sleep(0.02)
            assert p.relay.connections == 0

    run(test())
