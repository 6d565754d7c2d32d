"""Pods as kubelet would make them, over the CRI: a small language and what to do with it.

    pod = pods.start(Pod("web", containers=[Container(args=[…])]))     sandbox, containers, started
    pod.observe()                                                      ask the workload
    pods.remove(pod)

Each pod gets what kubelet gives: a hosts file, a termination log, a service account token, an
emptyDir, a log directory and a cgroup of its own.
"""

from __future__ import annotations

import base64
import itertools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.e2e import netns
from tests.e2e.rpc import Cri, RpcError, reason
from tests.node import images
from tests.node.node import Node

NAMESPACE = "e2e"
WORKLOADS = "/opt/workloads"
PODS = "/var/lib/kubelet/e2e"
PORT = 8080
GATEWAY = "10.88.0.1"
"""The node, as pods see it: the address of CNI's bridge (tests/node/files/cni.conflist)."""

# What kubelet asks for when a pod says nothing (k8s.io/kubernetes, pkg/securitycontext).
MASKED = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container of a pod."""

    name: str = "main"
    image: str = images.PYTHON
    args: Sequence[str] = ("-B", "-u", "-m", "workloads.runner")
    """The workload's arguments; the image's own command is before them."""
    command: Sequence[str] = ("/usr/bin/python3",)
    env: Mapping[str, str] = field(default_factory=dict)
    security: Mapping[str, Any] = field(default_factory=dict)
    """Fields of LinuxContainerSecurityContext that differ from an ordinary pod's."""
    resources: Mapping[str, Any] = field(default_factory=dict)
    """Fields of LinuxContainerResources."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 0
    tty: bool = False
    stdin: bool = False
    mounts: Sequence[Mapping[str, Any]] = ()
    devices: Sequence[Mapping[str, Any]] = ()
    cdi: Sequence[str] = ()
    """Devices by their names in CDI, as kubelet passes on what a device plugin answers."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod; its name is made unique when it is started."""

    name: str = "pod"
    namespace: str = NAMESPACE
    annotations: Mapping[str, str] = field(default_factory=dict)
    containers: Sequence[Container] = (Container(),)
    handler: str = ""
    privileged: bool = False
    """Whether the sandbox allows privileged containers."""
    nodes: Sequence[str] = ()
    """Namespaces that are the node's: network, pid, ipc."""

    def restoring(self, snapshot: str, *, container: str = "", **more: str) -> Pod:
        """The same pod, which asks to start from a snapshot; ``more`` are other annotations."""
        suffix = f".{container}" if container else ""
        wanted = {f"podthaw.dev/snapshot{suffix}": snapshot}
        wanted |= {f"podthaw.dev/{key.replace('_', '-')}": value for key, value in more.items()}
        return replace(self, annotations={**self.annotations, **wanted})


class Running:
    """A pod that runs."""

    def __init__(self, pods: Pods, pod: Pod, name: str, uid: str) -> None:
        self.pods = pods
        self.pod = pod
        self.name = name
        self.uid = uid
        self.home = f"{PODS}/{uid}"
        self.log_directory = f"/var/log/pods/{pod.namespace}_{name}_{uid}"
        self.hostname = name
        self.token = f"token of {uid}"
        self.sandbox = ""
        self.ip = ""
        self.ids: dict[str, str] = {}
        self.start_seconds: dict[str, float] = {}
        self.asked = 0.0
        """When RunPodSandbox was called, by time.monotonic()."""
        self.kept = False
        """Whether it belongs to a fixture that several tests share."""

    # -- the CRI's messages ----------------------------------------------------------------

    def sandbox_config(self) -> dict[str, Any]:
        """PodSandboxConfig, as kubelet writes it."""
        return {
            "metadata": {"name": self.name, "uid": self.uid, "namespace": self.pod.namespace},
            "hostname": "" if "network" in self.pod.nodes else self.hostname,
            "log_directory": self.log_directory,
            "dns_config": {
                "servers": ["10.96.0.10"],
                "searches": [f"{self.name}.svc.cluster.local"],
                "options": ["ndots:5"],
            },
            "labels": self._labels(),
            "annotations": dict(self.pod.annotations),
            "linux": {
                "cgroup_parent": f"{self.pods.node.cgroup}/kubepods/pod{self.uid}",
                "security_context": {
                    "namespace_options": self._namespaces(),
                    "seccomp": {"profile_type": "RuntimeDefault"},
                    "privileged": self.pod.privileged,
                },
            },
        }

    def container_config(self, container: Container) -> dict[str, Any]:
        """ContainerConfig, as kubelet writes it."""
        mounts = [
            {"container_path": "/etc/hosts", "host_path": f"{self.home}/hosts"},
            {
                "container_path": "/dev/termination-log",
                "host_path": f"{self.home}/termination-{container.name}",
            },
            {
                "container_path": "/var/run/secrets/kubernetes.io/serviceaccount",
                "host_path": f"{self.home}/account",
                "readonly": True,
            },
            {"container_path": "/volume", "host_path": f"{self.home}/volume"},
            {"container_path": WORKLOADS, "host_path": WORKLOADS, "readonly": True},
        ]
        security = {
            "namespace_options": self._namespaces(),
            "seccomp": {"profile_type": "Unconfined"},
            "masked_paths": MASKED,
            "readonly_paths": READ_ONLY,
        }
        env = {"POD_UID": self.uid, "PYTHONPATH": "/opt", **container.env}
        return {
            "metadata": {"name": container.name, "attempt": container.attempt},
            "image": {"image": container.image},
            "command": list(container.command),
            "args": list(container.args),
            "working_dir": "/",
            "envs": [{"key": key, "value": value} for key, value in env.items()],
            "mounts": [*mounts, *({**mount} for mount in container.mounts)],
            "devices": [{**device} for device in container.devices],
            "CDI_devices": [{"name": name} for name in container.cdi],
            "labels": {**self._labels(), "io.kubernetes.container.name": container.name},
            "annotations": {
                "io.kubernetes.container.hash": "5a3b",
                "io.kubernetes.container.restartCount": str(container.attempt),
                **container.annotations,
            },
            "log_path": f"{container.name}/{container.attempt}.log",
            "tty": container.tty,
            "stdin": container.stdin,
            "linux": {
                "resources": {"oom_score_adj": 900, "cpu_shares": 102, **container.resources},
                "security_context": security | dict(container.security),
            },
        }

    def _namespaces(self) -> dict[str, str]:
        return {"pid": "CONTAINER", **dict.fromkeys(self.pod.nodes, "NODE")}

    def _labels(self) -> dict[str, str]:
        return {
            "io.kubernetes.pod.name": self.name,
            "io.kubernetes.pod.namespace": self.pod.namespace,
            "io.kubernetes.pod.uid": self.uid,
        }

    # -- what can be asked -----------------------------------------------------------------

    def id(self, container: str = "") -> str:
        """The id of a container; of the only or first one without a name."""
        return self.ids[container or self.pod.containers[0].name]

    def get(self, path: str, *, port: int = PORT, timeout: float = 40) -> Any:
        """The workload's answer to a GET."""
        status, value = netns.get(self.pods.node.pid, self.ip, port, path, timeout=timeout)
        assert status == 200, f"{path}: {status} {value}"
        return value

    def observe(self, *, port: int = PORT) -> dict[str, Any]:
        """What the workload's behaviours see (tests/e2e/workloads)."""
        value: dict[str, Any] = self.get("/observe", port=port)
        return value

    def wait_ready(self, *, port: int = PORT, timeout: float = 60) -> None:
        """Until the workload answers that it is set up."""

        def ready() -> bool:
            try:
                return netns.get(self.pods.node.pid, self.ip, port, "/ready", timeout=5)[0] == 200
            except OSError:
                for name in self.ids:
                    state = self.status(name)["state"]
                    assert state == "CONTAINER_RUNNING", f"{name} is {state}: {self.log(name)}"
                return False

        self.pods.node.wait(f"readiness of {self.name}", ready, timeout=timeout, every=0.05)

    def status(self, container: str = "", *, verbose: bool = False) -> dict[str, Any]:
        """ContainerStatus's status; with ``verbose`` the whole answer."""
        answer = self.pods.cri.ask(
            "ContainerStatus", container_id=self.id(container), verbose=verbose
        )
        status: dict[str, Any] = answer if verbose else answer["status"]
        return status

    def log(self, container: str = "", *, attempt: int = 0) -> str:
        """A container's log file, without the time stamps."""
        name = container or self.pod.containers[0].name
        path = f"{self.log_directory}/{name}/{attempt}.log"
        text = self.pods.node.exec(["cat", path], check=False).stdout
        return "\n".join(line.split(" ", 3)[-1] for line in text.splitlines())

    def exec(self, command: Sequence[str], container: str = "") -> tuple[int, str, str]:
        """ExecSync: exit code, standard output, standard error."""
        answer = self.pods.cri.ask(
            "ExecSync", container_id=self.id(container), cmd=list(command), timeout=20
        )
        texts = [base64.b64decode(answer[key]).decode() for key in ("stdout", "stderr")]
        return answer["exit_code"], texts[0], texts[1]

    def wait_exit(self, container: str = "", *, timeout: float = 20) -> dict[str, Any]:
        """Until the container has exited; its status."""

        def exited() -> bool:
            return bool(self.status(container)["state"] == "CONTAINER_EXITED")

        self.pods.node.wait(f"exit of {self.name}", exited, timeout=timeout, every=0.05)
        return self.status(container)


class Pods:
    """All pods of one node, made through one CRI socket."""

    def __init__(self, node: Node, cri: Cri) -> None:
        self.node = node
        self.cri = cri
        self.running: list[Running] = []

    def start(self, pod: Pod, *, ready: bool = True) -> Running:
        """Run the sandbox and start every container, in order, as kubelet does."""
        running = self.sandbox(pod)
        for container in pod.containers:
            self.create(running, container)
            self.start_container(running, container.name)
        if ready:
            running.wait_ready()
        return running

    def sandbox(self, pod: Pod) -> Running:
        """The sandbox alone, with the files that kubelet prepares."""
        uid = str(uuid.uuid4())
        running = Running(self, pod, f"{pod.name}-{next(_numbers)}", uid)
        self._files(running)
        self.running.append(running)
        config = running.sandbox_config()
        running.asked = time.monotonic()
        answer = self.cri.ask("RunPodSandbox", config=config, runtime_handler=pod.handler)
        running.sandbox = answer["pod_sandbox_id"]
        status = self.cri.ask("PodSandboxStatus", pod_sandbox_id=running.sandbox)
        running.ip = status["status"]["network"]["ip"] or "127.0.0.1"
        return running

    def create(self, running: Running, container: Container) -> str:
        """CreateContainer."""
        answer = self.cri.ask(
            "CreateContainer",
            pod_sandbox_id=running.sandbox,
            config=running.container_config(container),
            sandbox_config=running.sandbox_config(),
        )
        running.ids[container.name] = answer["container_id"]
        return str(answer["container_id"])

    def start_container(self, running: Running, name: str) -> None:
        """StartContainer; how long it took is kept."""
        started = time.monotonic()
        try:
            self.cri.ask("StartContainer", container_id=running.ids[name])
        finally:
            running.start_seconds[name] = time.monotonic() - started

    def again(self, running: Running, container: Container) -> Container:
        """Replace an exited container by its next attempt, as kubelet does; it is started."""
        following = replace(container, attempt=container.attempt + 1)
        self.create(running, following)
        self.start_container(running, following.name)
        return following

    def remove(self, running: Running, *, grace: int = 0) -> None:
        """Stop and remove the containers and the sandbox; what is gone is no error."""
        for container in running.ids.values():
            self.cri.ask("StopContainer", container_id=container, timeout=grace)
        if running.sandbox:
            self.cri.ask("StopPodSandbox", pod_sandbox_id=running.sandbox)
            self.cri.ask("RemovePodSandbox", pod_sandbox_id=running.sandbox)
        # As kubelet does: the pod's own cgroup, when the runtime has removed what was in it.
        script = 'rm -rf "$1" "$2"; rmdir /sys/fs/cgroup/*"$3" /sys/fs/cgroup"$3" 2>/dev/null; :'
        cgroup = running.sandbox_config()["linux"]["cgroup_parent"]
        self.node.exec(["sh", "-c", script, "sh", running.home, running.log_directory, cgroup])
        if running in self.running:
            self.running.remove(running)

    def remove_all(self) -> None:
        """Remove every pod that was started here."""
        for running in list(self.running):
            self.remove(running)

    def try_start(self, pod: Pod) -> tuple[Running, str]:
        """Start a pod that may fail; the text of the error, or nothing."""
        before = len(self.running)
        try:
            return self.start(pod), ""
        except RpcError as error:
            return self.running[before], reason(error)

    def _files(self, running: Running) -> None:
        """What kubelet makes of a pod on the node's disk before it calls the runtime."""
        script = """
            set -e; home=$1 logs=$2 uid=$3; shift 3
            mkdir -p "$home/account" "$home/volume" "$logs"; chmod 0777 "$home/volume"
            printf '127.0.0.1 localhost\\n# pod %s\\n' "$uid" > "$home/hosts"
            printf '%s' "token of $uid" > "$home/account/token"
            for name; do mkdir -p "$logs/$name"; : > "$home/termination-$name"; done
        """
        names = [container.name for container in running.pod.containers]
        self.node.exec(
            ["sh", "-c", script, "sh", running.home, running.log_directory, running.uid, *names]
        )


def eventually(condition: Callable[[], object], seconds: float = 10) -> bool:
    """Wait for a condition; whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
