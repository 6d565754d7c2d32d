"""A Docker engine: the one that answers, or one that is installed and started here."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import docker
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config

from tests.node import cache, debian
from tests.node.debian import Unavailable

# testcontainers' janitor is an image of a public registry, which a closed network cannot pull.
# Node removes its containers itself, also those that a killed run left.
testcontainers_config.ryuk_disabled = True

START_TIMEOUT = 60.0

_daemons: list[subprocess.Popen[bytes]] = []


def connect() -> docker.DockerClient:
    """A client of an engine that answers; starts one where there is none and it may."""
    try:
        return _ping()
    except DockerException as error:
        if os.environ.get("DOCKER_HOST"):
            where = os.environ["DOCKER_HOST"]
            raise Unavailable(
                f"the Docker engine at DOCKER_HOST={where} is silent: {error}"
            ) from error
        if os.geteuid() != 0:
            raise Unavailable(
                f"no Docker engine answers ({error}). Start one, or allow this account to use it "
                "(group docker), or run as root to have one installed and started"
            ) from error
    with cache.locked("dockerd"):
        try:
            return _ping()  # another process may have been quicker
        except DockerException:
            return _start()


def _ping() -> docker.DockerClient:
    # A generous limit: importing the node image is one request.
    client = docker.from_env(timeout=300)
    try:
        client.ping()
    except BaseException:
        client.close()
        raise
    return client


def _start() -> docker.DockerClient:
    if not shutil.which("dockerd"):
        debian.install("docker.io", "iptables")
    log = cache.root() / "dockerd.log"
    with cache.step("starting dockerd"), log.open("w") as output:
        # It outlives this process on purpose: the next run finds it. Python warns of such a child
        # when its object is collected, so that is kept.
        daemon = subprocess.Popen(
            ["dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        _daemons.append(daemon)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if daemon.poll() is not None:
                raise Unavailable(f"dockerd ended at once:\n{_tail(log)}")
            try:
                return _ping()
            except DockerException:
                time.sleep(0.3)
    daemon.terminate()
    raise Unavailable(f"dockerd does not answer after {START_TIMEOUT:.0f} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])
