from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from examples.embeddings.server import MAX_BODY, MAX_TEXTS, Handler, Server


class Rows(list[list[float]]):
    def tolist(self) -> list[list[float]]:
        return list(self)


class Lengths:
    """A model whose vector is the text's length."""

    def embed(self, texts: list[str]) -> Rows:
        return Rows([float(len(text))] for text in texts)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def ask(
    server: Server,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    host, port = server.server_address[:2]
    with closing(http.client.HTTPConnection(str(host), int(port), timeout=5)) as connection:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_not_healthy_and_no_embeddings_before_the_model_is_there(server: Server) -> None:
    assert ask(server, "GET", "/healthz") == (503, {"status": "starting"})
    assert ask(server, "POST", "/embed", b'{"texts": ["a"]}')[0] == 503


def test_answers_in_the_order_of_the_texts(server: Server) -> None:
    server.embedder = Lengths()
    assert ask(server, "GET", "/healthz") == (200, {"status": "ready"})
    body = json.dumps({"texts": ["abc", "", "a"]}).encode()
    assert ask(server, "POST", "/embed", body) == (200, {"embeddings": [[3.0], [0.0], [1.0]]})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "must be JSON"),
        (b"[]", "must be JSON"),
        (b"{}", "must be JSON"),
        (b'{"texts": "abc"}', "list of strings"),
        (b'{"texts": [1]}', "list of strings"),
        (b'{"texts": []}', "not 0"),
        (json.dumps({"texts": ["a"] * (MAX_TEXTS + 1)}).encode(), f"not {MAX_TEXTS + 1}"),
    ],
)
def test_a_bad_request_is_told_so(server: Server, body: bytes, why: str) -> None:
    server.embedder = Lengths()
    status, answer = ask(server, "POST", "/embed", body)
    assert status == 400
    assert why in answer["error"]


def test_a_large_body_is_refused_before_it_is_read(server: Server) -> None:
    status, answer = ask(server, "POST", "/embed", headers={"Content-Length": str(MAX_BODY + 1)})
    assert status == 400
    assert f"not {MAX_BODY + 1}" in answer["error"]


def test_unknown_paths(server: Server) -> None:
    assert ask(server, "GET", "/")[0] == 404
    assert ask(server, "POST", "/", b'{"texts": ["a"]}')[0] == 400
