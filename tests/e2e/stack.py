"""The whole of it on one node: containerd, Podthaw's proxy and runtime, pods, the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.pods import WORKLOADS, Pods, Running
from tests.e2e.rpc import Cri
from tests.node.execute import Result
from tests.node.node import PREFIX, PROXY_SOCKET, Node

RUN = "/run/podthaw"
STORE = "/var/lib/podthaw/store"
WORKLOAD_SOURCES = Path(__file__).parent / "workloads"


@dataclass(frozen=True)
class Footprint:
    """What a start could leave behind on a node."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    files: frozenset[str]
    rules: str

    def beyond(self, other: Footprint) -> dict[str, list[str]]:
        """What is here and not in the other."""
        left = {
            "processes": sorted(self.processes - other.processes),
            "mounts": sorted(self.mounts - other.mounts),
            "cgroups": sorted(self.cgroups - other.cgroups),
            "files": sorted(self.files - other.files),
            "rules": [] if self.rules == other.rules else [self.rules],
        }
        return {key: value for key, value in left.items() if value}


FOOTPRINT = r"""
import json, os, re, subprocess, sys
from pathlib import Path
run, store, cgroup = sys.argv[1:]
def names(pid):
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return text and f"{pid} {text}"
    except OSError:
        return ""
skip = ("timeout ", "python3 -c", "sleep 3600")
processes = [n for p in os.listdir("/proc") if p.isdigit() and (n := names(p))
             and not n.split(" ", 1)[1].startswith(skip)]
mounts = [line.split()[4] for line in open("/proc/self/mountinfo")]
tops = [Path("/sys/fs/cgroup")]
if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
    tops = [p for p in Path("/sys/fs/cgroup").iterdir() if p.is_dir() and not p.is_symlink()]
cgroups = [d for top in tops for d, _, _ in os.walk(f"{top}{cgroup}")
           if "/pod" in d]
files = []
for top in (f"{run}/plans", f"{run}/restores", f"{run}/work", f"{store}/tmp", f"{store}/pins",
            f"{store}/snapshots"):
    if Path(top).is_dir():
        for d, ds, fs in os.walk(top):
            depth = os.path.relpath(d, top).count("/") + (d != top)
            files += [f"{d}/{n}" for n in ds + fs if depth < (1 if "pins" in top else 2) - 1
                      or "tmp" in top or "pins" in top]
shm = [f"{d}/{f}" for d, _, fs in os.walk("/run/containerd") for f in fs
       if f.startswith("link_remap")]
rules = ""
for command in (["iptables-save"], ["nft", "list", "ruleset"]):
    try:
        out = subprocess.run(command, capture_output=True, text=True).stdout
        out = re.sub(r"\[\d+:\d+\]|packets \d+ bytes \d+", "", out)
        rules += "\n".join(l for l in out.splitlines() if not l.startswith("#"))
    except OSError:
        pass
print(json.dumps([processes, mounts, cgroups, files + shm, rules]))
"""


class Stack:
    """A node with everything running, and the pods made through the proxy."""

    def __init__(self, node: Node) -> None:
        self.node = node
        node.put(WORKLOAD_SOURCES, WORKLOADS)
        node.start_proxy()
        self.cri = Cri(node.endpoint(PROXY_SOCKET))
        self.pods = Pods(node, self.cri)
        self.direct = Cri(node.endpoint())
        """containerd itself, without the proxy."""

    def close(self) -> None:
        """Remove the pods, close the connections."""
        self.pods.remove_all()
        self.cri.close()
        self.direct.close()

    # -- the command line ------------------------------------------------------------------

    def podthaw(
        self, *arguments: str, check: bool = True, env: Mapping[str, str] | None = None
    ) -> Result:
        """Run ``podthaw …`` on the node."""
        return self.node.exec(
            [f"{PREFIX}/bin/podthaw", *arguments], check=check, timeout=120, env=env
        )

    def capture(
        self, pod: Running, name: str, *options: str, container: str = "", check: bool = True
    ) -> Result:
        """``podthaw capture`` of a container of a pod."""
        which = ["-c", container] if container else []
        return self.podthaw(
            "capture",
            f"{pod.pod.namespace}/{pod.name}",
            *which,
            "--name",
            name,
            *options,
            check=check,
        )

    def inspect(self, reference: str) -> dict[str, Any]:
        """What ``podthaw inspect`` tells of a snapshot."""
        value: dict[str, Any] = json.loads(self.podthaw("inspect", reference, "-o", "json").stdout)
        return value

    def digest(self, reference: str) -> str:
        """``sha256:…`` of a snapshot, as the store's names have it."""
        namespace, _, name = reference.rpartition("/")
        return self.node.read(f"{STORE}/names/{namespace}/{name}").decode().strip()

    def snapshot(self, reference: str) -> str:
        """The directory of a snapshot."""
        return f"{STORE}/snapshots/{self.digest(reference).removeprefix('sha256:')}"

    # -- what a start leaves ---------------------------------------------------------------

    def footprint(self) -> Footprint:
        """What is on the node now."""
        script = ["python3", "-c", FOOTPRINT, RUN, STORE, self.node.cgroup]
        processes, mounts, cgroups, files, rules = json.loads(self.node.exec(script).stdout)
        return Footprint(
            frozenset(processes), frozenset(mounts), frozenset(cgroups), frozenset(files), rules
        )

    @contextmanager
    def leaves_nothing(self) -> Iterator[None]:
        """What is started and removed inside the block leaves nothing on the node."""
        before = self.footprint()
        yield
        left: dict[str, list[str]] = {}

        def clean() -> bool:
            left.clear()
            left.update(self.footprint().beyond(before))
            return not left

        try:
            self.node.wait("clean node", clean, timeout=8, every=0.3)
        except TimeoutError:
            raise AssertionError(f"left behind: {json.dumps(left, indent=1)}") from None


def is_cold(pod: Running, container: str = "", *, attempt: int = 0) -> bool:
    """Whether the container's program started from the beginning: it prints so first."""
    return pod.log(container, attempt=attempt).startswith("first line")
