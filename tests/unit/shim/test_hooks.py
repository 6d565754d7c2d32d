from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import hooks
from shim.errors import Unfit
from shim.hooks import Hook


@pytest.mark.parametrize(
    ("text", "hook"),
    [
        ("http:8080/wake?a=b%20c", Hook("http", "8080/wake?a=b%20c")),
        ("http:65535", Hook("http", "65535")),
        ("exec:/wake --now 'a b'", Hook("exec", "/wake --now 'a b'")),
        ("signal:USR1", Hook("signal", "USR1")),
        ("signal:SIGHUP", Hook("signal", "HUP")),
    ],
)
def test_a_hook_is_read(text: str, hook: Hook) -> None:
    assert hooks.parse(text) == hook
    assert hooks.parse(str(hook)) == hook


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http",
        "http:",
        "http:/x",
        "http:0/x",
        "http:65536/x",
        "http:080808/x",
        "http:٣/x",
        "http:80x",
        "http:80/a b",
        "http:80/a\r\nHost: evil",
        "http:80/ü",
        "http:80/" + "a" * 1024,
        "http:10.0.0.1:80/x",
        "http:80@evil/x",
        "HTTP:80/x",
        "exec:",
        "exec:   ",
        "exec:''",
        "exec:'open",
        "exec:a\nb",
        "exec:a\0b",
        "exec:--user=0 sh",
        "exec:" + "a" * 4097,
        "signal:KILL",
        "signal:STOP",
        "signal:TERM",
        "signal:9",
        "signal:usr1",
        "signal:SIGSIGUSR1",
        "file:/x",
        "ready",
    ],
)
def test_what_is_no_hook(text: str) -> None:
    assert hooks.parse(text) is None


@given(st.one_of(st.text(), st.text().map(lambda text: "http:80/" + text)))
def test_no_text_puts_a_line_into_a_request(text: str) -> None:
    hook = hooks.parse(text)
    if hook is not None:
        assert hook.argument.isprintable()
        assert str(hook) == text or hook.kind == "signal"
        assert hook.kind != "http" or (hook.argument.isascii() and " " not in hook.argument)


def place(address: str = "127.0.0.1", pid: int = 0, **more: object) -> hooks.Place:
    def execute(command: list[str], deadline: float) -> tuple[int, str]:
        with suppress(subprocess.TimeoutExpired):
            left = deadline - time.monotonic()
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=left
            )
            return done.returncode, done.stdout + done.stderr
        raise TimeoutError

    fields = {"address": address, "pid": pid, "is_first": lambda: True, "execute": execute}
    return hooks.Place(**{**fields, **more})  # type: ignore[arg-type]


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


# -- http -------------------------------------------------------------------------------------


@contextmanager
def server(answer: bytes, *, pause: float = 0, family: int = socket.AF_INET) -> Iterator[list[str]]:
    """Answers one request with these bytes, one by one when there is a pause; what was asked."""
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    asked: list[str] = []
    with socket.create_server((host, 0), family=family) as listening:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    asked.append(connection.recv(65536).decode())
                    for part in [answer] if not pause else [bytes([one]) for one in answer]:
                        time.sleep(pause)
                        connection.sendall(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        asked.append(str(listening.getsockname()[1]))
        try:
            yield asked
        finally:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 204 \r\n\r\n",
        b"HTTP/1.1 202\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 299 x\r\n\r\n",
    ],
)
def test_a_post_that_is_answered_well(answer: bytes) -> None:
    with server(answer) as asked:
        hooks.run(Hook("http", f"{asked[0]}/wake?x=1"), place(), soon())
    assert asked[1] == (
        f"POST /wake?x=1 HTTP/1.1\r\nHost: 127.0.0.1:{asked[0]}\r\nUser-Agent: podthaw\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n"
    )


def test_a_pod_with_an_address_of_version_6() -> None:
    with server(b"HTTP/1.1 200 OK\r\n\r\n", family=socket.AF_INET6) as asked:
        hooks.run(Hook("http", asked[0]), place("::1"), soon())
    assert asked[1].startswith(f"POST / HTTP/1.1\r\nHost: [::1]:{asked[0]}\r\n")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\nlater", "was answered with status 503, wanted 2xx"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/x\r\n\r\n", "status 302"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "the connection was closed"),
        (b"", "was not answered"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000, "bytes of headers"),
    ],
)
def test_a_post_that_is_answered_badly(answer: bytes, words: str) -> None:
    with server(answer) as asked, pytest.raises(Unfit, match=words) as caught:
        hooks.run(Hook("http", f"{asked[0]}/wake"), place(), soon())
    assert str(caught.value).startswith(f"http:{asked[0]}/wake was ")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    with pytest.raises(Unfit, match=r"was not answered at 127\.0\.0\.1: Connection refused"):
        hooks.run(Hook("http", f"{port}/"), place(), soon())


def test_a_slow_server_cannot_stretch_the_deadline() -> None:
    begun = time.monotonic()
    with (
        server(b"HTTP/1.1 200 OK\r\n\r\n", pause=0.2) as asked,
        pytest.raises(Unfit, match="was not done within"),
    ):
        hooks.run(Hook("http", asked[0]), place(), soon(0.5))
    assert time.monotonic() - begun < 6


def test_a_body_without_end_is_not_waited_for() -> None:
    begun = time.monotonic()
    with server(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (1 << 20)) as asked:
        hooks.run(Hook("http", asked[0]), place(), soon())
    assert time.monotonic() - begun < 5


# -- exec -------------------------------------------------------------------------------------


def test_a_program_and_its_words() -> None:
    script = "import sys; sys.exit(sys.argv[1:] != ['a b', '$HOME;', ''])"
    words = f"""{sys.executable} -c "{script}" 'a b' '$HOME;' ''"""
    hook = hooks.parse(f"exec:{words}")
    assert hook is not None
    hooks.run(hook, place(), soon())


def test_a_program_that_fails() -> None:
    hook = hooks.parse("exec:sh -c 'echo one; printf \"t\\033wo\\n\\n\"; exit 5'")
    assert hook is not None
    with pytest.raises(Unfit, match=r"^exec:sh .* ended with status 5: t\?wo$") as caught:
        hooks.run(hook, place(), soon())
    assert caught.value.detail == "one\nt?wo"


def test_a_program_that_hangs() -> None:
    with pytest.raises(Unfit, match=r"exec:sleep 60 was not done within 0\.2 seconds"):
        hooks.run(Hook("exec", "sleep 60"), place(), soon(0.2))


@pytest.mark.parametrize("hook", [Hook("exec", "true"), Hook("http", "80/")])
def test_no_time_is_left(hook: Hook) -> None:
    with pytest.raises(Unfit, match="was not done within 0 seconds"):
        hooks.run(hook, place(), soon(-1))


# -- signal -----------------------------------------------------------------------------------

RECEIVER = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
signal.signal(signal.SIGWINCH, signal.SIG_IGN)
print("ready", flush=True)
if sys.argv[1] == "wait":
    sys.exit(10 + signal.sigwait([signal.SIGHUP]))
while True:  # a pause could miss a signal that came just before it
    time.sleep(0.05)
"""


@contextmanager
def receiver(how: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RECEIVER, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            # Not before it sleeps: what it waits for then no longer counts as blocked.
            while Path(f"/proc/{process.pid}/stat").read_text().split(") ")[1][0] != "S":
                time.sleep(0.001)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("name", "how", "status"), [("USR1", "pause", 7), ("HUP", "wait", 10 + signal.SIGHUP)]
)
def test_a_signal_that_is_handled(name: str, how: str, status: int) -> None:
    with receiver(how) as process:
        hooks.run(Hook("signal", name), place(pid=process.pid), soon())
        assert process.wait(10) == status


@pytest.mark.parametrize("name", ["USR2", "WINCH"])
def test_a_signal_that_would_be_lost_is_not_sent(name: str) -> None:
    with receiver("pause") as process:
        with pytest.raises(Unfit, match=f"would be lost: .* neither catches SIG{name} nor waits"):
            hooks.run(Hook("signal", name), place(pid=process.pid), soon())
        assert process.poll() is None


def test_a_process_that_is_not_the_containers_gets_no_signal() -> None:
    with receiver("pause") as process:
        other = place(pid=process.pid, is_first=lambda: False)
        with pytest.raises(Unfit, match="the first process is gone"):
            hooks.run(Hook("signal", "USR1"), other, soon())
        assert process.poll() is None


def test_the_first_process_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(Unfit, match="the first process is gone"):
        hooks.run(Hook("signal", "USR1"), place(pid=pid), soon())
