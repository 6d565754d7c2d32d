"""Hooks and response filters, through the relay, against gRPC's own client and server."""

# ruff: noqa: ARG001  # a handler has the arguments that gRPC gives it
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cri.rpc import Call, ResponseFilter, RpcError, StatusCode, UnaryHook
from tests.unit.cri.fake_cri import RUNTIME, pair, run
from tests.unit.cri.test_relay import outcome


@dataclass
class Hooks:
    """An interceptor of what a test gives it, by short method names."""

    hooked: dict[str, UnaryHook] = field(default_factory=dict)
    filtered: dict[str, ResponseFilter] = field(default_factory=dict)

    def hooks(self) -> Mapping[str, UnaryHook]:
        return {RUNTIME + name: hook for name, hook in self.hooked.items()}

    def filters(self) -> Mapping[str, ResponseFilter]:
        return {RUNTIME + name: rewrite for name, rewrite in self.filtered.items()}


async def echo(request: bytes, context: Any) -> bytes:
    await context.send_initial_metadata((("early", "1"),))
    context.set_trailing_metadata((("late", "2"),))
    return b"echo " + request


def test_a_hook_rewrites_request_and_response(tmp_path: Path) -> None:
    async def hook(call: Call) -> bytes:
        assert call.method == RUNTIME + "Create"
        assert ("who", "me") in call.metadata
        assert ("raw-bin", b"\x00\xff") in call.metadata
        remaining = call.remaining()
        assert remaining is not None
        assert 5 < remaining < 10.5
        return (await call.forward(call.request + b" plan")).upper()

    async def test() -> None:
        async with pair(tmp_path, Hooks({"Create": hook})) as p:
            p.cri.unary("Create", echo)
            metadata = (("who", "me"), ("raw-bin", b"\x00\xff"))
            call = p.unary("Create")(b"box", timeout=10, metadata=metadata)
            assert await call == b"ECHO BOX PLAN"
            assert ("early", "1") in list(await call.initial_metadata())
            assert ("late", "2") in list(await call.trailing_metadata())
            assert p.cri.requests == [("Create", b"box plan")]

    run(test())


def test_a_hook_without_a_deadline_sees_none(tmp_path: Path) -> None:
    async def hook(call: Call) -> bytes:
        assert call.remaining() is None
        return await call.forward()

    async def test() -> None:
        async with pair(tmp_path, Hooks({"Create": hook})) as p:
            p.cri.unary("Create", echo)
            assert await p.unary("Create")(b"box") == b"echo box"

    run(test())


def test_a_hook_answers_itself_and_containerd_does_nothing(tmp_path: Path) -> None:
    async def hook(call: Call) -> bytes:
        return b"own " + call.request

    async def test() -> None:
        async with pair(tmp_path, Hooks({"Checkpoint": hook})) as p:
            p.cri.unary("Checkpoint", echo)
            p.cri.unary("Other", echo)
            for number in range(20):
                assert await p.unary("Checkpoint")(b"%d" % number) == b"own %d" % number
                assert await p.unary("Other")(b"x") == b"echo x"
            assert {name for name, _ in p.cri.requests} == {"Other"}

    run(test())


def test_a_hook_aborts(tmp_path: Path) -> None:
    async def hook(call: Call) -> bytes:
        call.abort(StatusCode.FAILED_PRECONDITION, "snapshot é 100%\nunfit")

    async def test() -> None:
        async with pair(tmp_path, Hooks({"Create": hook})) as p:
            p.cri.unary("Create", echo)
            code, text, _ = await outcome(p.unary("Create")(b"box"))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert text == "snapshot é 100%\nunfit"
            assert p.cri.requests == []

    run(test())


def test_an_error_of_containerd_reaches_the_hook_and_unhandled_the_client(tmp_path: Path) -> None:
    caught: list[RpcError] = []

    async def hook(call: Call) -> bytes:
        try:
            return await call.forward()
        except RpcError as error:
            caught.append(error)
            raise

    async def fail(request: bytes, context: Any) -> bytes:
        details = (("grpc-status-details-bin", b"\x08\x05"), ("more", "x"))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no ü", details)
        return b""

    async def test() -> None:
        async with pair(tmp_path, Hooks({"Create": hook})) as p:
            p.cri.unary("Create", fail)
            direct, relayed = [
                await outcome(side.unary_unary(RUNTIME + "Create")(b""))
                for side in (p.direct, p.relayed)
            ]
            assert direct == relayed
            assert relayed[0] is grpc.StatusCode.NOT_FOUND
            (error,) = caught
            assert (error.code, error.message) == (StatusCode.NOT_FOUND, "no ü")
            assert error.details == b"\x08\x05"

    run(test())


def test_a_hook_may_turn_an_error_into_an_answer(tmp_path: Path) -> None:
    async def hook(call: Call) -> bytes:
        with suppress(RpcError):
            return await call.forward()
        return b"made good"

    async def fail(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        return b""

    async def test() -> None:
        async with pair(tmp_path, Hooks({"Remove": hook})) as p:
            p.cri.unary("Remove", fail)
            assert await p.unary("Remove")(b"") == b"made good"

    run(test())


def test_a_hook_that_breaks_does_not_break_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def before(call: Call) -> bytes:
        raise ZeroDivisionError

    async def after(call: Call) -> bytes:
        await call.forward(call.request + b"!")
        raise ZeroDivisionError

    async def twice(call: Call) -> bytes:
        await call.forward()
        return await call.forward()

    async def test() -> None:
        hooks = Hooks({"Before": before, "After": after, "Twice": twice})
        async with pair(tmp_path, hooks) as p:
            for name, seen in (("Before", b"x"), ("After", b"x!"), ("Twice", b"x")):
                p.cri.unary(name, echo)
                call = p.unary(name)(b"x")
                assert await call == b"echo " + seen
                assert ("early", "1") in list(await call.initial_metadata())
            assert len(p.cri.requests) == 3

    run(test())
    assert caplog.text.count("passes as it came") == 3


def test_cancel_reaches_hook_and_containerd(tmp_path: Path) -> None:
    async def test() -> None:
        begun, hook_ended, server_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def hook(call: Call) -> bytes:
            try:
                return await call.forward()
            finally:
                hook_ended.set()

        async def slow(request: bytes, context: Any) -> bytes:
            begun.set()
            try:
                await asyncio.sleep(30)
            finally:
                server_ended.set()
            return b""

        async with pair(tmp_path, Hooks({"Create": hook})) as p:
            p.cri.unary("Create", slow)
            call = p.unary("Create")(b"")
            await begun.wait()
            call.cancel()
            await asyncio.wait_for(hook_ended.wait(), 5)
            await asyncio.wait_for(server_ended.wait(), 5)
            assert p.relay.calls == 0

    run(test())


def test_a_client_that_goes_away_cancels_its_hooks(tmp_path: Path) -> None:
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def hook(call: Call) -> bytes:
            begun.set()
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()
            return b""

        async with pair(tmp_path, Hooks({"Create": hook})) as p:
            task = asyncio.ensure_future(outcome(p.unary("Create")(b"")))
            await begun.wait()
            await p.relayed.close()
            await asyncio.wait_for(ended.wait(), 5)
            with suppress(asyncio.CancelledError):
                await task

    run(test())


def test_a_deadline_ends_a_hook(tmp_path: Path) -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def hook(call: Call) -> bytes:
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()
            return b""

        async with pair(tmp_path, Hooks({"Create": hook})) as p:
            code, _, _ = await outcome(p.unary("Create")(b"", timeout=0.3))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.wait_for(ended.wait(), 5)

    run(test())


def test_containerd_that_dies_during_a_forward_ends_the_hook(tmp_path: Path) -> None:
    async def test() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def hook(call: Call) -> bytes:
            try:
                # An error of the call, or a cancellation when the client has noticed first.
                with pytest.raises((RpcError, asyncio.CancelledError)):
                    await call.forward()
                raise RpcError(StatusCode.UNAVAILABLE, "seen")
            finally:
                ended.set()

        async def slow(request: bytes, context: Any) -> bytes:
            begun.set()
            await asyncio.sleep(30)
            return b""

        async with pair(tmp_path, Hooks({"Create": hook})) as p:
            p.cri.unary("Create", slow)
            call = asyncio.ensure_future(outcome(p.unary("Create")(b"")))
            await begun.wait()
            await p.cri.stop()
            code = (await asyncio.wait_for(call, 5))[0]
            assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
            await asyncio.wait_for(ended.wait(), 5)

    run(test())


def test_large_messages_through_hooks_keep_flow_control_right(tmp_path: Path) -> None:
    """Held, grown and shrunk bodies beside untouched ones, all on one connection."""

    async def grow(call: Call) -> bytes:
        return await call.forward(call.request + bytes(70_000)) + b"tail"

    async def shrink(call: Call) -> bytes:
        return (await call.forward(call.request[: len(call.request) // 2]))[:1000]

    async def plain(request: bytes, context: Any) -> bytes:
        return request

    async def test() -> None:
        async with pair(tmp_path, Hooks({"Grow": grow, "Shrink": shrink})) as p:
            for name in ("Grow", "Shrink", "Plain"):
                p.cri.unary(name, plain)

            async def one(number: int) -> None:
                data = bytes([number]) * (number * 61_337 % 900_000)
                name = ("Grow", "Shrink", "Plain")[number % 3]
                wanted = {
                    "Grow": data + bytes(70_000) + b"tail",
                    "Shrink": data[: len(data) // 2][:1000],
                    "Plain": data,
                }[name]
                assert await p.unary(name)(data) == wanted

            for _ in range(3):
                await asyncio.gather(*(one(number) for number in range(60)))
            biggest = bytes((16 << 20) - 100_000)
            assert len(await p.unary("Grow")(biggest)) == len(biggest) + 70_004

    run(test())


def test_a_hooked_request_above_the_limit_fails_as_containerd_would_fail_it(
    tmp_path: Path,
) -> None:
    async def hook(call: Call) -> bytes:
        return await call.forward()

    async def test() -> None:
        async with pair(tmp_path, Hooks({"Create": hook})) as p:
            p.cri.unary("Create", echo)
            unlimited = grpc.aio.insecure_channel(
                f"unix:{p.path}",
                options=[
                    ("grpc.max_send_message_length", -1),
                    ("grpc.use_local_subchannel_pool", 1),
                ],
            )
            method = unlimited.unary_unary(RUNTIME + "Create")
            code, text, _ = await outcome(method(bytes((16 << 20) + 1)))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert text == "grpc: received message larger than max (16777217 vs. 16777216)"
            assert await method(b"small") == b"echo small"  # the connection goes on
            await unlimited.close()

    run(test())


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_read(tmp_path: Path, compression: grpc.Compression) -> None:
    async def hook(call: Call) -> bytes:
        assert call.request == b"a" * 5000
        answer = await call.forward(b"b" * 5000)
        assert answer == b"echo " + b"b" * 5000
        return answer + b"!"

    async def zipped(request: bytes, context: Any) -> bytes:
        context.set_compression(compression)
        return b"echo " + request

    def rewrite(message: bytes) -> bytes:
        return message.replace(b"echo", b"filtered")

    async def test() -> None:
        async with pair(tmp_path, Hooks({"Create": hook}, {"List": rewrite})) as p:
            p.cri.unary("Create", zipped)
            p.cri.unary("List", zipped)
            call = p.unary("Create")(b"a" * 5000, compression=compression)
            assert await call == b"echo " + b"b" * 5000 + b"!"
            listed = p.unary("List")(b"c" * 5000, compression=compression)
            assert await listed == b"filtered " + b"c" * 5000

    run(test())


def test_filters_rewrite_single_and_streamed_answers(tmp_path: Path) -> None:
    def rewrite(message: bytes) -> bytes:
        return message.replace(b"podthaw", b"") + b"." if b"podthaw" in message else message

    async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            for number in range(int(request)):
                yield (b"podthaw" if number % 2 else b"runc") + bytes(number * 997)
        context.set_trailing_metadata((("late", "2"),))

    async def test() -> None:
        async with pair(tmp_path, Hooks({}, {"Stream": rewrite, "One": rewrite})) as p:
            p.cri.handlers["Stream"] = stream
            p.cri.unary("One", echo)
            assert await p.unary("One")(b"podthaw") == b"echo ."
            assert await p.unary("One")(b"other") == b"echo other"
            call = p.relayed.unary_stream(RUNTIME + "Stream")(b"200")
            got = [message async for message in call]
            assert got == [
                bytes(n * 997) + b"." if n % 2 else b"runc" + bytes(n * 997) for n in range(200)
            ]
            assert ("late", "2") in list(await call.trailing_metadata())

    run(test())


def test_a_filter_applies_to_what_a_hook_returns(tmp_path: Path) -> None:
    async def hook(call: Call) -> bytes:
        return await call.forward() + b" hook"

    async def test() -> None:
        hooks = Hooks({"Both": hook}, {"Both": lambda message: message + b" filter"})
        async with pair(tmp_path, hooks) as p:
            p.cri.unary("Both", echo)
            assert await p.unary("Both")(b"x") == b"echo x hook filter"

    run(test())


def test_a_filter_that_breaks_does_not_break_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def rewrite(message: bytes) -> bytes:
        raise ZeroDivisionError

    async def test() -> None:
        async with pair(tmp_path, Hooks({}, {"One": rewrite})) as p:
            p.cri.unary("One", echo)
            assert await p.unary("One")(b"x") == b"echo x"

    run(test())
    assert "passes unread" in caplog.text


def test_errors_of_a_filtered_method_pass(tmp_path: Path) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        return b""

    async def test() -> None:
        async with pair(tmp_path, Hooks({}, {"One": lambda message: message})) as p:
            p.cri.unary("One", fail)
            sides = (p.direct, p.relayed)
            got = [await outcome(side.unary_unary(RUNTIME + "One")(b"")) for side in sides]
            assert got[0] == got[1]

    run(test())


def test_a_slow_reader_of_a_filtered_stream_slows_the_server_down(tmp_path: Path) -> None:
    async def test() -> None:
        sent = 0

        async def flood(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(100):
                yield bytes(1 << 20)
                sent += 1

        def rewrite(message: bytes) -> bytes:
            return message + b"!"

        async with pair(tmp_path, Hooks({}, {"Flood": rewrite})) as p:
            p.cri.handlers["Flood"] = flood
            call = p.relayed.unary_stream(RUNTIME + "Flood")(b"")
            assert len(await call.read()) == (1 << 20) + 1
            await asyncio.sleep(1)
            assert sent < 40
            rest = 0
            while await call.read() is not grpc.aio.EOF:
                rest += 1
            assert rest == 99

    run(test())
