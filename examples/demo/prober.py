"""Runs on the node: drops static pods' manifests, and asks each pod until it answers.

    prober.py NAME=STAGED … --manifests DIR --request FILE   → JSON on standard output

It stands inside because only the node reaches its pods, and because a process that is already
there sees an answer at once: a poll every 10 ms over a kept connection. All times are Unix times
in seconds of the machine's one clock.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

# Podthaw's own tree on the node speaks to containerd.
sys.path.insert(0, "/opt/podthaw/lib")
from cri.proto import cri_pb2 as cri
from cri.rpc import RpcError
from cri.runtime_client import SyncRuntimeClient

NAME_LABEL = "io.kubernetes.pod.name"

REFUSED_PAUSE = 0.01
"""Seconds between two attempts to connect."""
LOADING_PAUSE = 0.02
"""Seconds after a 503: such an answer costs the server some work of its own start."""
CONNECT_TIMEOUT = 0.1
"""A first packet that is lost would be sent again only after a second."""
ANSWER_TIMEOUT = 30


@dataclass
class Observation:
    """What was seen of one pod; 0 is "not yet"."""

    pod: str
    dropped: float = 0
    """The manifest appeared in kubelet's folder."""
    sandbox: float = 0
    """The sandbox was made, as containerd says."""
    created: float = 0
    """The container was made, as containerd says."""
    started: float = 0
    """The container was started, as containerd says."""
    answered: float = 0
    """The first whole answer was there."""
    address: str = ""
    container: str = ""
    """Id in containerd."""
    embeddings: list[list[float]] | None = None
    error: str = ""


def observe(seen: Observation, staged: Path, options: argparse.Namespace) -> None:
    """Start one pod and fill in what is seen of it."""
    deadline = time.time() + options.timeout
    try:
        seen.dropped = time.time()
        staged.rename(Path(options.manifests) / staged.name)
        wait_for_address(seen, options.socket, deadline)
        seen.embeddings = ask_until_answered(seen, options, deadline)
        read_times(seen, options.socket, deadline)
    except (OSError, RpcError, RuntimeError) as error:
        seen.error = f"{type(error).__name__}: {error}"


def wait_for_address(seen: Observation, socket: str, deadline: float) -> None:
    """Ask containerd until the pod's sandbox is ready and has an address."""
    query = cri.PodSandboxFilter(
        state=cri.PodSandboxStateValue(state=cri.SANDBOX_READY),
        label_selector={NAME_LABEL: seen.pod},
    )
    with SyncRuntimeClient(socket) as runtime:
        while time.time() < deadline:
            for item in runtime.list_pod_sandbox(query):
                status = runtime.pod_sandbox_status(item.id).status
                if status.network.ip:
                    seen.address = status.network.ip
                    seen.sandbox = status.created_at / 1e9
                    return
            time.sleep(REFUSED_PAUSE)
    raise TimeoutError("kubelet has made no sandbox for it")


def ask_until_answered(
    seen: Observation, options: argparse.Namespace, deadline: float
) -> list[list[float]]:
    """Ask for embeddings until they come."""
    body = Path(options.request).read_bytes()
    connection = http.client.HTTPConnection(seen.address, options.port, timeout=CONNECT_TIMEOUT)
    last = "nothing was tried"
    while time.time() < deadline:
        pause = REFUSED_PAUSE
        try:
            if not connection.sock:
                connection.connect()
                connection.sock.settimeout(ANSWER_TIMEOUT)
            connection.request("POST", "/embed", body)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == HTTPStatus.OK:
                seen.answered = time.time()
                connection.close()
                vectors: list[list[float]] = json.loads(content)["embeddings"]
                return vectors
            last = f"{answer.status} {content.decode(errors='replace').strip()[:200]}"
            pause = LOADING_PAUSE
        except (OSError, http.client.HTTPException) as error:
            last = f"{type(error).__name__}: {error}"
            connection.close()
        time.sleep(pause)
    raise TimeoutError(f"no embeddings; the last answer: {last}")


def read_times(seen: Observation, socket: str, deadline: float) -> None:
    """Read when the container was made and started, by containerd's record."""
    query = cri.ContainerFilter(label_selector={NAME_LABEL: seen.pod})
    with SyncRuntimeClient(socket) as runtime:
        found = runtime.list_containers(query)
        if not found:
            raise RuntimeError("containerd knows no container of it")
        newest = max(found, key=lambda item: item.created_at)
        seen.container = newest.id
        seen.created = newest.created_at / 1e9
        # A restored process may answer before containerd has noted that it runs.
        while time.time() < deadline:
            seen.started = runtime.container_status(newest.id).status.started_at / 1e9
            if seen.started:
                return
            time.sleep(REFUSED_PAUSE)
    raise TimeoutError("containerd does not say that its container was started")


def main() -> int:
    """Observe all named pods at once; the exit status tells whether all answered."""
    parser = argparse.ArgumentParser(description="start static pods and wait for their answers")
    parser.add_argument("pods", nargs="+", metavar="NAME=STAGED")
    parser.add_argument("--manifests", required=True, help="kubelet's staticPodPath")
    parser.add_argument("--request", required=True, help="file with the body to POST to /embed")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--socket", default="/run/containerd/containerd.sock")
    options = parser.parse_args()
    seen = {}
    threads = []
    for item in options.pods:
        name, _, staged = item.partition("=")
        seen[name] = Observation(name)
        threads.append(threading.Thread(target=observe, args=(seen[name], Path(staged), options)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump([asdict(one) for one in seen.values()], sys.stdout)
    return 0 if all(one.embeddings for one in seen.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
