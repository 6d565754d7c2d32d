"""A program that runs in a pod, as its cases ask it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from tests.e2e import netns
from tests.e2e.pods import PORT, Running


class Wrong(Exception):
    """The program did not do what it should."""


class Live:
    """A running pod with one container."""

    def __init__(self, running: Running) -> None:
        self.running = running

    def sh(self, script: str) -> str:
        """A shell command's output in the container, stripped; it must succeed."""
        status, out, err = self.running.exec(["sh", "-c", script])
        if status:
            raise Wrong(f"{script!r} ended with {status}: {err.strip() or out.strip()}")
        return out.strip()

    def get(self, path: str = "/", *, timeout: float = 20) -> tuple[str, dict[str, str]]:
        """Body and headers of an HTTP answer, from outside the pod."""
        pid, ip = self.running.pods.node.pid, self.running.ip
        with contextlib.closing(netns.Http(pid, ip, PORT, timeout=timeout)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            if answer.status != 200:
                raise Wrong(f"GET {path}: {answer.status} {body}")
            return body, dict(answer.headers)

    @contextlib.contextmanager
    def traffic(self, path: str, *, clients: int = 4) -> Iterator[list[int]]:
        """Ask for a path all the time, over connections that stay open; Wrong if any request fails.

        Without a path nothing is asked. The value is filled, at the end, with each client's
        count of answers.
        """
        if not path:
            yield []
            return
        pid, ip = self.running.pods.node.pid, self.running.ip
        done = threading.Event()

        def ask() -> int:
            count = 0
            with contextlib.closing(netns.Http(pid, ip, PORT, timeout=20)) as connection:
                while not done.is_set():
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        raise Wrong(f"GET {path}: {answer.status}")
                    count += 1
                    time.sleep(0.002)
            return count

        counts: list[int] = []
        with ThreadPoolExecutor(clients) as pool:
            asking = [pool.submit(ask) for _ in range(clients)]
            try:
                time.sleep(0.2)
                yield counts
                time.sleep(0.2)
            finally:
                done.set()
        for one in asking:
            try:
                counts.append(one.result())
            except (OSError, HTTPException) as error:
                raise Wrong(f"a request failed during the capture: {error!r}") from error

    def json(self, path: str = "/") -> Any:
        """The JSON of an HTTP answer."""
        return json.loads(self.get(path)[0])

    def wait(self, what: str, condition: Callable[[], object], *, timeout: float = 60) -> None:
        """Until the condition holds; errors while it does not are taken as no."""
        deadline = time.monotonic() + timeout
        last: object = "no"
        while True:
            try:
                if condition():
                    return
            except (Wrong, OSError, ValueError) as error:
                last = error
            if time.monotonic() > deadline:
                raise Wrong(f"no {what} after {timeout:.0f} s: {last}; {self.running.log()[-600:]}")
            time.sleep(0.1)
