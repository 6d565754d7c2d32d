"""Streaming calls of Kubernetes (exec, attach, port-forward) over a WebSocket, as kubectl does.

RFC 6455, the client's side; in each message the first byte names the stream
(k8s.io/kubelet, remotecommand/websocket.go: v4.channel.k8s.io).
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections import defaultdict
from typing import Any, Self
from urllib.parse import urlsplit

STDIN, STDOUT, STDERR, ERROR = range(4)
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class Stream:
    """One streaming call on a connected socket."""

    def __init__(self, connection: socket.socket, url: str, protocol: str) -> None:
        parts = urlsplit(url)
        self._socket = connection
        self._file = connection.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        request = [
            f"GET {parts.path}{'?' + parts.query if parts.query else ''} HTTP/1.1",
            f"Host: {parts.netloc or 'localhost'}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            f"Sec-WebSocket-Protocol: {protocol}",
        ]
        connection.sendall("\r\n".join([*request, "", ""]).encode())
        status = self._file.readline().decode()
        headers = []
        while (line := self._file.readline().strip()) != b"":
            headers.append(line.decode())
        if " 101 " not in status:
            length = next(
                (int(h.split(":")[1]) for h in headers if h.lower().startswith("content-length")), 0
            )
            body = self._file.read(length).decode(errors="replace")
            raise AssertionError(f"{url}: {status.strip()} {body}")
        self.received: dict[int, bytes] = defaultdict(bytes)
        self.ended = False

    def send(self, channel: int, data: bytes) -> None:
        """Send data on a stream."""
        self._send(BINARY, bytes([channel]) + data)

    def _send(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        header = bytes([0x80 | kind])
        header += (
            bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack(">H", size)
        )
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self._socket.sendall(header + mask + masked)

    def read(self) -> bool:
        """Receive one message into :attr:`received`; False at the end."""
        header = self._file.read(2)
        if len(header) < 2:
            self.ended = True
            return False
        kind, size = header[0] & 0xF, header[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._file.read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._file.read(8))
        payload = self._file.read(size)
        if kind == CLOSE:
            self.ended = True
            return False
        if kind == PING:
            self._send(PONG, payload)
        elif payload:
            self.received[payload[0]] += payload[1:]
        return True

    def read_until(self, channel: int, text: bytes) -> bytes:
        """Receive until a stream holds a text."""
        while text not in self.received[channel]:
            if not self.read():
                raise AssertionError(f"the stream ended before {text!r}: {dict(self.received)}")
        return self.received[channel]

    def drain(self) -> None:
        """Receive until the end."""
        while self.read():
            pass

    @property
    def status(self) -> dict[str, Any]:
        """What the error stream said at the end (metav1.Status)."""
        value: dict[str, Any] = json.loads(self.received[ERROR] or b"{}")
        return value

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
