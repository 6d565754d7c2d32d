"""HTTP servers: nginx, Node.js, Go, Java, and Python's."""

from __future__ import annotations

from typing import Any

from tests.programs.case import EVERYWHERE, RUNTIME_DEFAULT, Case, file
from tests.programs.image import DIRECTORY
from tests.programs.live import Live, Wrong


def _nginx(live: Live) -> Any:
    body, _ = live.get("/file")
    cached, headers = live.get("/proxied")
    names = "cat /proc/[0-9]*/cmdline | tr -d '\\0' | grep -o '[n]ginx: worker' | wc -l"
    return body, cached, headers.get("X-Cache"), live.sh(names)


def _nginx_after(live: Live) -> None:
    live.wait("access log", lambda: "GET /file" in live.running.log(), timeout=5)
    live.sh(f"echo changed > /srv/file; nginx -c {file('nginx.conf')} -s reload")
    live.wait("reload", lambda: live.get("/file")[0] == "changed\n", timeout=10)


def _warm(live: Live) -> None:
    for _ in range(30):
        live.json()


def _workers(live: Live) -> Any:
    return sorted({live.json()["sum"] for _ in range(12)})


def _same_workers(live: Live) -> None:
    if not any(live.json()["hits"] > 5 for _ in range(12)):
        raise Wrong("the workers were started anew")


def _static(live: Live) -> Any:
    return live.get("/file")[0]


def _apache_after(live: Live) -> None:
    live.sh(f"echo changed > /srv/file; apache2 -f {file('apache.conf')} -k graceful")
    live.wait("reload", lambda: live.get("/file")[0] == "changed\n", timeout=10)


_BEHIND = "cd /srv; echo static > file; python3 -m http.server -b 127.0.0.1 8081 2> /dev/null &"
_WAIT = "trap 'kill $!; wait $!; exit 3' TERM; wait $!"
_NODE = ["node", file("node_server.js")]
_GUNICORN = ["gunicorn", "-b", f"{EVERYWHERE}:8080", "--chdir", DIRECTORY]
_UVICORN = ["uvicorn", "--host", EVERYWHERE, "--port", "8080", "--app-dir", DIRECTORY]

CASES = (
    Case(
        name="nginx",
        command=["sh", "-c", f"echo static > /srv/file; exec nginx -c {file('nginx.conf')}"],
        ask=_nginx,
        busy="/file",
        after=_nginx_after,
        users=True,
    ),
    Case(name="node", command=_NODE, security=RUNTIME_DEFAULT, busy="/ping", end=3),
    Case(
        name="node-io-uring",
        command=_NODE,
        # Since libuv 1.49 it switches only a part of libuv's io_uring off.
        env={"UV_USE_IO_URING": "0"},
        refused="io-uring",
        end=3,
    ),
    Case(name="go", command=[file("go_server")], busy="/ping", end=3),
    Case(
        name="go-mptcp",
        command=[file("go_server")],
        annotated=False,
        refused="socket",
        end=3,
    ),
    Case(
        name="go-no-mptcp",
        command=[file("go_server")],
        annotated=False,
        env={"GODEBUG": "multipathtcp=0"},
        end=3,
    ),
    Case(name="java", command=["java", "-Xmx128m", file("Server.java")], busy="/ping", end=143),
    Case(
        name="gunicorn",
        command=[*_GUNICORN, "-w", "3", "web:wsgi"],
        warm=_warm,
        ask=_workers,
        busy="/",
        after=_same_workers,
    ),
    Case(
        name="gunicorn-threads",
        command=[
            *_GUNICORN,
            "-w",
            "2",
            "--threads",
            "4",
            "--preload",
            "-u",
            "www-data",
            "web:wsgi",
        ],
        warm=_warm,
        ask=_workers,
        busy="/",
        after=_same_workers,
        users=True,
    ),
    Case(
        name="uvicorn",
        command=[*_UVICORN, "--workers", "2", "--loop", "uvloop", "web:asgi"],
        security=RUNTIME_DEFAULT,
        warm=_warm,
        ask=_workers,
        busy="/",
        after=_same_workers,
        end=None,
    ),
    Case(
        name="apache",
        command=[
            "sh",
            "-c",
            f"echo static > /srv/file; exec apache2 -f {file('apache.conf')} -D FOREGROUND",
        ],
        ask=_static,
        busy="/file",
        after=_apache_after,
        users=True,
    ),
    Case(
        name="php-fpm",
        command=["sh", file("php.sh")],
        env={"PHP_OPTIONS": "-d opcache.jit_buffer_size=0"},
        users=True,
        end=3,
    ),
    Case(
        name="php-fpm-jit", command=["sh", file("php.sh")], refused="shared-code", users=True, end=3
    ),
    Case(
        name="haproxy",
        command=["sh", "-c", f"{_BEHIND} haproxy -f {file('haproxy.cfg')} & {_WAIT}"],
        ask=_static,
        busy="/file",
        users=True,
        end=3,
    ),
    Case(
        name="puma",
        command=["puma", "-b", f"tcp://{EVERYWHERE}:8080", "-t", "4", file("config.ru")],
        busy="/ping",
        end=None,
    ),
    Case(name="erlang", command=["sh", file("erlang.sh")], ask=_static, busy="/file", end=None),
)
