"""Run a command in a container, with input, a time limit and both outputs."""

from __future__ import annotations

import shlex
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import docker

STDOUT, STDERR = 1, 2


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    command: tuple[str, ...]
    status: int
    output: bytes
    """Standard output as it was."""
    stderr: str

    @property
    def stdout(self) -> str:
        return self.output.decode(errors="replace")


class CommandFailed(AssertionError):
    """A command that had to succeed did not."""

    def __init__(self, result: Result) -> None:
        super().__init__(
            f"{shlex.join(result.command)} ended with {result.status}\n"
            f"stdout: {result.stdout[-4000:]}\nstderr: {result.stderr[-4000:]}"
        )
        self.result = result


def execute(
    client: docker.DockerClient,
    container: str,
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float = 60,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    workdir: str | None = None,
) -> Result:
    """Run ``command`` in the container; past the time limit it is ended, with status 124 or 137."""
    # The limit is kept inside, where a hung command can be ended.
    limited = ["timeout", "--kill-after=3", f"{timeout:g}", *command]
    api = client.api
    created = api.exec_create(
        container, limited, stdin=True, environment=dict(env or {}), workdir=workdir
    )
    stream = api.exec_start(created["Id"], socket=True)
    # docker-py wraps the connection in a file object whose socket it does not offer otherwise.
    connection = cast("socket.socket", getattr(stream, "_sock", stream))
    try:
        early = _read_ahead(stream, connection)
        connection.settimeout(timeout + 15)
        connection.sendall(stdin)
        connection.shutdown(socket.SHUT_WR)
        outputs = _read_frames(connection, early)
    finally:
        stream.close()
        connection.close()
    status = api.exec_inspect(created["Id"])["ExitCode"]
    result = Result(
        tuple(command),
        status,
        outputs[STDOUT],
        outputs[STDERR].decode(errors="replace"),
    )
    if check and status != 0:
        raise CommandFailed(result)
    return result


def _read_ahead(stream: Any, connection: socket.socket) -> bytearray:
    """What came in one piece with the head of the engine's answer, and so was read with it.

    It lies in the buffer of the HTTP response, which docker-py keeps but passes by.
    """
    connection.settimeout(0)
    return bytearray(stream._response.raw._fp.fp.peek())


def _read_frames(connection: socket.socket, early: bytearray) -> dict[int, bytes]:
    """Docker's multiplexed stream: a byte that names the stream, three zeros, a length, data."""
    parts: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
    while header := _read(connection, early, 8):
        stream, length = struct.unpack(">BxxxL", header)
        parts[stream].append(_read(connection, early, length))
    return {stream: b"".join(data) for stream, data in parts.items()}


def _read(connection: socket.socket, early: bytearray, length: int) -> bytes:
    chunks = [bytes(early[:length])]
    del early[:length]
    length -= len(chunks[0])
    while length and (chunk := connection.recv(min(length, 1 << 16))):
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)
