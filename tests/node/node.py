"""One running node: containerd, runc, CRIU and, if asked, Podthaw and kubelet.

with Node("sid") as node:
    node.start_containerd()
    node.install_podthaw()
    node.start_proxy()
    node.start_kubelet(f"unix://{PROXY_SOCKET}")
    name = node.add_static_pod(manifest)
    node.pods()[name]["status"]["phase"]
"""

from __future__ import annotations

import json
import socket as socket_module
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.node import cache, gobuild, images, kubernetes, limits
from tests.node.container import CACHE, NodeContainer
from tests.node.cri import Cri

FILES = Path(__file__).parent / "files"
REPOSITORY = Path(__file__).parents[2]

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PROXY_SOCKET = "/run/podthaw/podthaw.sock"
PREFIX = "/opt/podthaw"
MANIFESTS = "/etc/kubernetes/manifests"
LOGS = "/var/log/node"
PIDS = "/run/node"

FLAVOURS = ("sid", "trixie", "newest")
"""sid: containerd 2.1; trixie: containerd 1.7; newest: sid with a containerd built from source."""


class Node(NodeContainer):
    """A node of one flavour; nodes with the same ``store`` share their snapshots.

    ``unified``: with cgroup v2 alone (:class:`NodeContainer`).
    """

    def __init__(
        self,
        flavour: str = "sid",
        *,
        name: str = "n1",
        store: str | None = None,
        unified: bool = False,
    ) -> None:
        if flavour not in FLAVOURS:
            raise ValueError(f"flavour {flavour!r}: must be one of {', '.join(FLAVOURS)}")
        self.flavour = flavour
        suite = "trixie" if flavour == "trixie" else "sid"
        super().__init__(suite, name=name, store=store, unified=unified)
        self.dumps_users = False
        """Whether CRIU can dump processes of other users than root, as on a real node."""

    def start(self) -> Self:
        """Start the container, with its configuration in place; no daemon runs yet."""
        super().start()
        self.dumps_users = limits.show_limits(self)
        # /dev/kmsg is what kubelet watches for OOM kills.
        self.exec(["sh", "-c", f"mknod /dev/kmsg c 1 11; mkdir -p {LOGS} {PIDS}"])
        base = "containerd-v2.toml" if self.flavour == "trixie" else "containerd.toml"
        self.write("/etc/containerd/config.toml", (FILES / base).read_text())
        self.write("/etc/cni/net.d/10-node.conflist", (FILES / "cni.conflist").read_text())
        if self.unified and b"memory" not in self.read("/sys/fs/cgroup/cgroup.controllers"):
            runc = "/usr/local/sbin/runc"
            self.write(runc, (FILES / "runc-without-controllers.py").read_text())
            self.exec(["chmod", "755", runc])
        if self.flavour == "newest":
            for program in gobuild.CONTAINERD:
                self.link(gobuild.binary(program), f"/usr/local/bin/{program.name}")
        return self

    def recent_logs(self) -> str:
        """The last lines of every daemon; nothing of a node that does not run."""
        if self._client is None:
            return ""
        script = f'cd {LOGS} && for f in *.log; do echo "-- $f"; tail -n 15 $f; done'
        return self.exec(["sh", "-c", script], check=False).stdout

    def endpoint(self, socket: str = CONTAINERD_SOCKET) -> str:
        return super().endpoint(socket)

    def cri(self, socket: str = CONTAINERD_SOCKET) -> Cri:
        """A client of the CRI at a socket inside; its pods' cgroups are the node's."""
        return Cri(self.endpoint(socket), cgroup=self.cgroup)

    # -- daemons ---------------------------------------------------------------------------

    def spawn(self, name: str, command: Sequence[str], *, env: Mapping[str, str] = {}) -> None:
        """Start a daemon; its output is appended to ``logs(name)``."""
        self.exec(["rm", "-f", f"{PIDS}/{name}.pid"])  # an earlier one's is no sign of life
        script = f'echo $$ > {PIDS}/{name}.pid; exec "$@" >> {LOGS}/{name}.log 2>&1 < /dev/null'
        created = self.client.api.exec_create(
            self.id, ["sh", "-c", script, "sh", *command], environment=dict(env)
        )
        self.client.api.exec_start(created["Id"], detach=True)

    def kill(self, name: str, *, signal: str = "TERM", timeout: float = 20) -> None:
        """End a daemon and wait until it is gone; none is no error."""
        script = (
            f"p=$(cat {PIDS}/{name}.pid 2>/dev/null) || exit 0; kill -{signal} $p 2>/dev/null;"
            f"while kill -0 $p 2>/dev/null; do sleep 0.05; done; rm -f {PIDS}/{name}.pid"
        )
        self.exec(["sh", "-c", script], timeout=timeout)

    def running(self, name: str) -> bool:
        """Whether a daemon that was started lives."""
        script = f"kill -0 $(cat {PIDS}/{name}.pid)"
        return self.exec(["sh", "-c", script], check=False).status == 0

    def _ended(self, name: str) -> bool:
        script = f"test -e {PIDS}/{name}.pid && ! kill -0 $(cat {PIDS}/{name}.pid)"
        return self.exec(["sh", "-c", script], check=False).status == 0

    def logs(self, name: str) -> str:
        """All that a daemon has printed, over its restarts."""
        return self.exec(["cat", f"{LOGS}/{name}.log"], check=False).stdout

    def start_containerd(self) -> None:
        """Start containerd and wait until its CRI answers; the first time, import the images."""
        self.spawn("containerd", ["containerd"])
        self._wait_for_daemon("containerd", self._containerd_answers)
        if self.exec(["ctr", "-n", "k8s.io", "images", "ls", "-q"]).stdout.strip() == "":
            for archive in images.workload_images():
                self.import_image(archive)

    def stop_containerd(self) -> None:
        self.kill("containerd")

    def restart_containerd(self) -> None:
        self.stop_containerd()
        self.start_containerd()

    def import_image(self, archive: Path) -> None:
        """Import an OCI image archive into containerd, for the CRI."""
        if archive.is_relative_to(cache.root()):
            inside = f"{CACHE}/{archive.relative_to(cache.root())}"
        else:
            inside = f"/tmp/{archive.name}"
            self.put(archive, inside)
        command = ["ctr", "-n", "k8s.io", "images", "import"]
        self.exec([*command, inside], timeout=300)

    def install_podthaw(self) -> None:
        """(Re)install this working tree's Podthaw and its containerd drop-in."""
        with tempfile.TemporaryDirectory() as scratch:
            tree = Path(scratch) / "podthaw"
            stage = [str(REPOSITORY / "deploy/stage.py"), str(tree), "--python", self.python]
            subprocess.run([sys.executable, *stage, "--cache", str(cache.root())], check=True)
            self.exec(["rm", "-rf", PREFIX])
            self.put(tree, PREFIX)
        compile_all = ["python3", "-m", "compileall", "-q", "-j0"]
        compile_all += ["--invalidation-mode", "unchecked-hash", f"{PREFIX}/lib"]
        self.exec(compile_all, timeout=300)
        self.exec([f"{PREFIX}/bin/podthaw-dropin", f"{PREFIX}/config/containerd.toml"])

    def start_proxy(self, *arguments: str, socket: str = PROXY_SOCKET) -> None:
        """Start ``podthaw proxy`` and wait until its socket is there."""
        self.spawn("proxy", [f"{PREFIX}/bin/podthaw", "proxy", *arguments])
        self._wait_for_daemon("proxy", lambda: self.accepts(socket))

    def accepts(self, path: str) -> bool:
        """Whether someone listens on a unix socket: one that was killed leaves its file."""
        with socket_module.socket(socket_module.AF_UNIX) as connection:
            try:
                connection.connect(str(self.path(path)))
            except OSError:
                return False
        return True

    def start_kubelet(
        self, endpoint: str = f"unix://{CONTAINERD_SOCKET}", **config: object
    ) -> None:
        """Start kubelet without an API server; ``config`` overrides fields of its configuration."""
        self._provide(kubernetes.kubelet(), "/usr/local/bin/kubelet")
        settings = yaml.safe_load((FILES / "kubelet.yaml").read_text())
        settings |= {"containerRuntimeEndpoint": endpoint, "cgroupRoot": self.cgroup} | config
        self.exec(["mkdir", "-p", MANIFESTS])
        self.write("/etc/kubernetes/kubelet.yaml", json.dumps(settings))
        command = ["kubelet", "--config", "/etc/kubernetes/kubelet.yaml"]
        self.spawn("kubelet", [*command, "--hostname-override", self.name])
        probe = ["busybox", "wget", "-qO-", "http://127.0.0.1:10248/healthz"]
        self._wait_for_daemon("kubelet", lambda: self.exec(probe, check=False).status == 0)

    def add_static_pod(self, manifest: Mapping[str, Any]) -> str:
        """Give kubelet a pod; the answer is the pod's name, which ends with the node's."""
        name = manifest["metadata"]["name"]
        # Kubelet skips names with a leading dot, so it never reads half a file.
        hidden = f"{MANIFESTS}/.{name}"
        self.write(hidden, json.dumps(manifest))
        self.exec(["mv", hidden, f"{MANIFESTS}/{name}.json"])
        return f"{name}-{self.name}"

    def remove_static_pod(self, manifest: Mapping[str, Any]) -> None:
        self.exec(["rm", "-f", f"{MANIFESTS}/{manifest['metadata']['name']}.json"])

    def kubelet(self, path: str, *, method: str = "GET", timeout: float = 60) -> bytes:
        """Ask kubelet's own API, e.g. ``/pods``, ``/containerLogs/NAMESPACE/POD/CONTAINER``."""
        request = urllib.request.Request(f"https://{self.ip}:10250{path}", method=method)
        # Its certificate is one that it has just signed itself.
        insecure = ssl._create_unverified_context()  # noqa: S323
        with urllib.request.urlopen(request, timeout=timeout, context=insecure) as answer:  # noqa: S310
            return bytes(answer.read())

    def pods(self) -> dict[str, dict[str, Any]]:
        """Kubelet's pods by name, with their status."""
        return {
            pod["metadata"]["name"]: pod for pod in json.loads(self.kubelet("/pods"))["items"] or []
        }

    def _provide(self, program: Path, inside: str) -> None:
        if program.is_relative_to(cache.root()):
            self.link(program, inside)
        else:
            self.put(program, inside)

    def _containerd_answers(self) -> bool:
        return self.exec(["ctr", "version"], check=False, timeout=5).status == 0

    def _wait_for_daemon(self, name: str, ready: Callable[[], bool], timeout: float = 60) -> None:
        def settled() -> bool:
            if ready():
                return True
            if self._ended(name):
                raise RuntimeError(f"{name} ended at once:\n{self.logs(name)[-4000:]}")
            return False

        self.wait(f"answer of {name}", settled, timeout=timeout)
