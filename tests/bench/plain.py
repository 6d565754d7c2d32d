"""``runc restore`` and ``crun restore`` without anybody above: what the others end in.

containerd's and CRI-O's restore, zeropod's and the checkpoint/restore operator's all let one of
these two read CRIU's images. Here the runtime is called directly, with a bundle that is ready, so
nothing of what they add is counted.
"""

from __future__ import annotations

import itertools
import json
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from shim.criu.stats import dump_seconds
from tests.bench import contender, footprint, pagecache
from tests.bench.contender import Capture, Touch
from tests.bench.footprint import Footprint
from tests.bench.inside import Client, Inside, MeasurementError
from tests.bench.workload import PORT
from tests.node import cache, debian, images

HOME = "/var/lib/ctd/bench"
ROOTFS = f"{HOME}/rootfs"

_numbers = itertools.count(1)

# crun refuses a machine with both versions of cgroups, though nothing of cgroups matters here: it
# sees version 2 alone, and CRIU is to leave cgroups alone.
_VERSION_2 = """
[ -d /sys/fs/cgroup/unified ] || exec "$@"
mkdir -p "/sys/fs/cgroup/unified/$CGROUP"
exec unshare -m sh -c 'mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup && exec "$@"' sh "$@"
"""


class PlainReplica:
    """A container of a bundle of its own, in a network namespace of its own."""

    created = 0.0

    def __init__(self, owner: Plain) -> None:
        self.owner = owner
        self.name = f"bench-{owner.name}-{next(_numbers)}"
        self.bundle = f"{HOME}/{self.name}"
        self.asked = 0.0
        self._client: Client | None = None
        owner.inside.shell(
            'ip netns add "$1" && ip -n "$1" link set lo up && mkdir -p "$2"',
            self.name,
            self.bundle,
        )
        config = owner.inside.path(f"{self.bundle}/config.json")
        config.write_text(json.dumps(owner.spec(self.name)))

    def start(self) -> float:
        owner, self.asked = self.owner, time.monotonic()
        places = ["--image-path", owner.images, "--work-path", self.bundle]
        command = ["restore", "--detach", "--bundle", self.bundle, *places]
        return owner.call(*command, *owner.cgroup_mode, self.name)

    def run(self) -> None:
        """Start it from the beginning."""
        self.owner.call("run", "--detach", "--bundle", self.bundle, self.name)

    def client(self) -> Client:
        if self._client is None:
            self._client = Client(self._network, "127.0.0.1", PORT)
        return self._client

    def check(self) -> dict[str, float]:
        return {}

    def memory(self) -> Footprint:
        return footprint.of(footprint.in_network(self._network))

    @property
    def _network(self) -> Path:
        return self.owner.inside.path(f"/run/netns/{self.name}")

    def remove(self) -> None:
        if self._client is not None:
            self._client.close()
        self.owner.call("delete", "--force", self.name, check=False)
        script = 'ip netns del "$1"; rm -rf "$2"'
        self.owner.inside.shell(script, self.name, self.bundle, check=False)


class Plain:
    """One of the two runtimes."""

    def __init__(self, inside: Inside, name: str) -> None:
        self.inside = inside
        self.name = name
        self.title = f"`{name} restore`"
        self.images = f"{HOME}/images-{name}"
        self.cgroup_mode = ["--manage-cgroups-mode", "ignore"] if name == "crun" else []
        self._mebibytes = 0
        self._answers: dict[Touch, str] = {}
        self._set_up()

    def capture(self, mebibytes: int) -> Capture:
        self._mebibytes = mebibytes
        self.forget()
        self.inside.run(["mkdir", "-p", self.images])
        original = PlainReplica(self)
        try:
            original.run()
            self._answers = contender.answers(original.client())
            places = ["--image-path", self.images, "--work-path", original.bundle]
            seconds = self.call("checkpoint", *places, *self.cgroup_mode, original.name)
            _, frozen, memory = dump_seconds(self.inside.path(original.bundle))
        finally:
            original.remove()
        size = pagecache.on_disk(self.files())
        return Capture(frozen=frozen, seconds=seconds, bytes=size, phases={"memory": memory})

    def files(self) -> list[Path]:
        return pagecache.files(self.inside.path(self.images))

    def expected(self, touch: Touch) -> str:
        return self._answers[touch]

    def prepare(self) -> PlainReplica:
        return PlainReplica(self)

    def forget(self) -> None:
        self.inside.run(["rm", "-rf", self.images])

    def call(self, *arguments: str, check: bool = True) -> float:
        """Call the runtime with nothing but /dev/null, since a dump has these too; seconds."""
        script = _VERSION_2 if self.name == "crun" else 'exec "$@"'
        log = f"/tmp/bench-{self.name}-{next(_numbers)}.log"
        quiet = f"exec < /dev/null > /dev/null 2>&1; {script}"
        try:
            cgroup = f"CGROUP={self.inside.node.cgroup}/bench-crun"
            command = ["env", cgroup, "sh", "-c", quiet, "sh", self.name, "--log", log, *arguments]
            return self.inside.run(command).seconds
        except MeasurementError as error:
            if not check:
                return 0.0
            raise MeasurementError(f"{self.name} {arguments[0]}: {self._told(log)}") from error
        finally:
            self.inside.path(log).unlink(missing_ok=True)

    def _told(self, log: str) -> str:
        """The errors that a failed call left in its log, CRIU's among them."""
        try:
            lines = self.inside.path(log).read_text(errors="replace").splitlines()
        except OSError:
            return "it failed and said nothing"
        errors = [line for line in lines if "rror" in line and "RLIMIT_NOFILE" not in line]
        return " | ".join(line[-200:] for line in (errors or lines)[-4:])

    def spec(self, name: str) -> dict[str, Any]:
        """The bundle's configuration: runc's own example with another program."""
        value: dict[str, Any] = json.loads(self._example)
        value["process"] |= {"terminal": False, "args": contender.command(self._mebibytes)}
        value["root"] = {"path": ROOTFS, "readonly": False}
        value["linux"]["cgroupsPath"] = f"{self.inside.node.cgroup}/bench/{name}"
        if self.name == "crun":  # CRIU puts them where the original was, told to leave it or not
            value["linux"]["cgroupsPath"] = f"{self.inside.node.cgroup}/bench-crun"
        for namespace in value["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = f"/run/netns/{name}"
        return value

    def _set_up(self) -> None:
        archive = images.workload_tree().relative_to(cache.root())
        script = """set -e; mkdir -p "$1"; cd "$2"
            [ -d "$1/usr" ] || tar -C "$1" -xf "/cache/$3"
            rm -f config.json; runc spec"""
        self.inside.shell(script, ROOTFS, "/tmp", str(archive))
        self._example = self.inside.path("/tmp/config.json").read_text()
        if self.name == "crun":
            told = " ".join(self.inside.run(["crun", "--version"]).output.split())
            if "+CRIU" not in told:
                raise MeasurementError(f"this crun was built without CRIU: {told}")
            self._provide_libcriu()

    def _provide_libcriu(self) -> None:
        """CRIU's library, which crun loads when it is to restore; Debian only recommends it."""
        with tempfile.TemporaryDirectory() as scratch:
            with tarfile.open(debian.tree("sid", ["libcriu2"])) as archive:
                members = [one for one in archive.getmembers() if "/libcriu.so." in one.name]
                archive.extractall(scratch, members, filter="tar")
            for library in Path(scratch).rglob("libcriu.so.*"):
                if not library.is_symlink():
                    self.inside.node.put(library, f"/usr/local/lib/{library.name}")
        self.inside.run(["ldconfig"])
