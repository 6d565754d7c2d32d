"""A container of the Docker engine that can be a node: its life, commands and files.

It has all capabilities but SYS_RESOURCE, this machine's cgroup hierarchy, and volumes for what must
not lie on an overlay file system.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import itertools
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Self

import docker
from docker.errors import APIError, NotFound
from testcontainers.core.container import DockerContainer

from tests.node import cache, engine, images, janitor
from tests.node.debian import Unavailable
from tests.node.execute import Result, execute

STATE = "/var/lib/podthaw"
STORE = f"{STATE}/store"
CACHE = "/cache"

# PID 1 reaps what daemons leave, and ends at once when it is told to.
INIT = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"

# What `docker run --security-opt systempaths=unconfined` does, which the API has no word for: the
# engine covers parts of /proc, and a kernel lets no one mount a new /proc where one is covered.
UNMASK_PROC = "grep -o ' /proc/[^ ]*' /proc/self/mounts | tac | xargs -r umount"

_ATTEMPTS = 6
"""To remove the container."""

_numbers = itertools.count(1)


class NodeContainer:
    """A container made from the node image of a Debian suite.

    ``store`` is a directory of this machine or a volume's name, to be mounted as Podthaw's store;
    without it the container has one of its own. ``unified`` makes it see cgroup v2 alone, as on a
    node of today: without controllers where this machine has them in v1's hierarchies.
    """

    def __init__(
        self, suite: str, *, name: str, store: str | None = None, unified: bool = False
    ) -> None:
        self.suite = suite
        self.unified = unified
        self.name = name
        self.id = f"podthaw-{os.getpid()}-{next(_numbers)}"
        self._store = store
        self._client: docker.DockerClient | None = None
        self._container: DockerContainer | None = None
        self._volumes: list[str] = []

    # -- life ------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the container."""
        self._client = engine.connect()
        janitor.remove_stale(self._client)
        atexit.register(self.stop)
        container = DockerContainer(images.node_image(self._client, self.suite))
        container.with_command(["/bin/sh", "-c", INIT])
        container.with_name(self.id)
        for source, target, mode in [
            (self._new_volume("containerd"), "/var/lib/ctd", "rw"),
            (self._new_volume("kubelet"), "/var/lib/kubelet", "rw"),
            (self._new_volume("podthaw"), STATE, "rw"),
            *([(self._store, STORE, "rw")] if self._store else []),
            (str(cache.root()), CACHE, "ro"),
            (self._hierarchy(), "/sys/fs/cgroup", "rw"),
        ]:
            container.with_volume_mapping(source, target, mode)
        container.tmpfs = {"/tmp": "exec", "/run": "exec"}
        container.with_kwargs(
            hostname=self.name,
            labels={janitor.LABEL: janitor.owner()},
            # Everything but SYS_RESOURCE, which a machine may itself not have to give: so it is the
            # same node everywhere (tests/node/limits.py does for CRIU what lacks then).
            cap_add=["ALL"],
            cap_drop=["SYS_RESOURCE"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            device_cgroup_rules=["a *:* rwm"],
            cgroupns="host",
        )
        self._container = container
        container.start()
        self.exec(["sh", "-c", UNMASK_PROC])
        for hierarchy in janitor.hierarchies():
            (hierarchy / self.id).mkdir(exist_ok=True)
        return self

    def stop(self) -> None:
        """Remove the container and all that belongs to it; may be called again."""
        atexit.unregister(self.stop)
        if self._client is None:
            return
        janitor.thaw(self.cgroup)
        self._remove_container()
        for volume in self._volumes:
            with contextlib.suppress(NotFound):
                self._client.volumes.get(volume).remove(force=True)
        janitor.remove_cgroups(self.cgroup)
        self._client.close()
        if self._container is not None:
            self._container.get_docker_client().client.close()
        self._client = self._container = None

    def _remove_container(self) -> None:
        """Kill and remove it; on a busy machine the engine may give up while it is still ending."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self.client.containers.get(self.id).remove(force=True, v=True)
            except NotFound:
                return
            except APIError:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(5)
            else:
                return

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _hierarchy(self) -> str:
        """What the container has at /sys/fs/cgroup. Raises Unavailable."""
        if not self.unified:
            return "/sys/fs/cgroup"
        found = janitor.unified_hierarchy()
        if found is None:
            raise Unavailable("this machine has no cgroup v2 hierarchy mounted")
        return str(found)

    # -- facts -----------------------------------------------------------------------------

    @property
    def client(self) -> docker.DockerClient:
        assert self._client is not None, "the node is not started"
        return self._client

    @property
    def cgroup(self) -> str:
        """The parent of every cgroup of this node's pods: two nodes share one hierarchy."""
        return f"/{self.id}"

    @property
    def pid(self) -> int:
        """The node's first process, as this machine sees it."""
        return int(self._inspect()["State"]["Pid"])

    @property
    def ip(self) -> str:
        """The node's address, which this machine reaches."""
        networks = self._inspect()["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    @property
    def python(self) -> str:
        """The version of the node's own Python, as ``3.14``."""
        script = "import sys; print('%d.%d' % sys.version_info[:2])"
        return self.exec(["python3", "-c", script]).stdout.strip()

    def path(self, inside: str) -> Path:
        """The path by which this machine (as root) reaches a file inside, sockets and all."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    def endpoint(self, socket: str) -> str:
        """The gRPC target by which this machine reaches a unix socket inside."""
        return f"unix://{self.path(socket)}"

    # -- commands and files ----------------------------------------------------------------

    def exec(
        self,
        command: Sequence[str],
        *,
        input: str | bytes = b"",  # noqa: A002 - as subprocess.run has it
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command inside; unless ``check`` is off, a failure is raised with its output."""
        data = input.encode() if isinstance(input, str) else input
        return execute(
            self.client, self.id, command, stdin=data, check=check, timeout=timeout, env=env
        )

    def write(self, path: str, content: str | bytes, *, mode: int = 0o644) -> None:
        """Write a file inside, as a whole or not at all."""
        script = 'mkdir -p "${1%/*}" && cat > "$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        self.exec(["sh", "-c", script, "sh", path, f"{mode:o}"], input=content)

    def read(self, path: str) -> bytes:
        """A file's content."""
        return self.exec(["cat", path]).output

    def put(self, local: Path, remote: str) -> None:
        """Copy a file or a directory's content to the path ``remote``; owned by root."""

        def as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            return entry

        buffer = io.BytesIO()
        target = PurePosixPath(remote)
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(local, arcname=target.name, filter=as_root)
        script = 'mkdir -p "$1" && exec tar -x -C "$1" -f -'
        self.exec(["sh", "-c", script, "sh", str(target.parent)], input=buffer.getvalue())

    def get(self, remote: str, local: Path) -> None:
        """Copy a file or directory from inside to the path ``local``, which must not exist."""
        source = PurePosixPath(remote)
        packed = self.exec(["tar", "-c", "-C", str(source.parent), source.name], timeout=300)
        with (
            tempfile.TemporaryDirectory(dir=local.parent) as scratch,
            tarfile.open(fileobj=io.BytesIO(packed.output)) as archive,
        ):
            archive.extractall(scratch, filter="tar")
            shutil.move(Path(scratch) / source.name, local)

    def link(self, cached: Path, inside: str) -> None:
        """Make a file of the cache visible at a path inside, without copying it."""
        target = f"{CACHE}/{cached.relative_to(cache.root())}"
        self.exec(["ln", "-sf", target, inside])

    def wait(
        self, what: str, condition: Callable[[], object], *, timeout: float = 30, every: float = 0.1
    ) -> None:
        """Wait until the condition holds; past the time limit fail with ``what`` and the logs."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} after {timeout:.0f} s\n{self.recent_logs()}")
            time.sleep(every)

    def recent_logs(self) -> str:
        """What helps to understand a failure."""
        return ""

    def _new_volume(self, purpose: str) -> str:
        name = f"{self.id}-{purpose}"
        self.client.volumes.create(name, labels={janitor.LABEL: janitor.owner()})
        self._volumes.append(name)
        return name

    def _inspect(self) -> dict[str, Any]:
        return self.client.api.inspect_container(self.id)  # type: ignore[no-any-return]
