"""A client of the container runtime interface, made from its published definition.

    cri = node.cri()
    pod = cri.run_pod("web", annotations={"podthaw.dev/snapshot": "web"})
    container = pod.run("main", images.BUSYBOX, ["sleep", "1000"])
    assert container.exec("true").status == 0

The messages live in a descriptor pool of their own: Podthaw's minimal definition has the same
names.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache as memoize
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_tools import protoc

from tests.node import cache, gobuild

API = "pkg/apis/runtime/v1/api.proto"
MESSAGE_LIMIT = 16 << 20  # containerd's
EXITED = "CONTAINER_EXITED"


@dataclass(frozen=True)
class Output:
    """What a command in a container left behind."""

    status: int
    stdout: str
    stderr: str


class Cri:
    """The calls of RuntimeService and ImageService at one socket, and pods made with them."""

    def __init__(self, target: str, *, cgroup: str = "") -> None:
        limits = [("grpc.max_receive_message_length", MESSAGE_LIMIT)]
        self.channel = grpc.insecure_channel(target, options=limits)
        self.cgroup = cgroup

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, /, *, deadline: float = 120, **fields: Any) -> Any:
        """One unary call by its name, e.g. ``call("StartContainer", container_id=id)``.

        Fields are given as in the proto's JSON form, messages as dictionaries; the answer is the
        message itself. ``deadline`` is that of the call; some calls have a field ``timeout``.
        """
        path, request, response = _method(method)
        call = self.channel.unary_unary(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return call(json_format.ParseDict(fields, request()), timeout=deadline)

    def stream(self, method: str, /, *, deadline: float | None = None, **fields: Any) -> Any:
        """A call that answers with a stream: iterate over it, and ``cancel()`` it at the end."""
        path, request, response = _method(method)
        call = self.channel.unary_stream(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return call(json_format.ParseDict(fields, request()), timeout=deadline)

    def run_pod(
        self,
        name: str,
        *,
        namespace: str = "default",
        annotations: Mapping[str, str] | None = None,
        handler: str = "",
        deadline: float = 120,
        **config: Any,
    ) -> Pod:
        """Start a pod sandbox as kubelet does; ``config`` overrides PodSandboxConfig's fields."""
        uid = str(uuid.uuid4())
        sandbox: dict[str, Any] = {
            "metadata": {"name": name, "uid": uid, "namespace": namespace},
            "hostname": name,
            "log_directory": f"/var/log/pods/{namespace}_{name}_{uid}",
            "labels": {
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": namespace,
                "io.kubernetes.pod.uid": uid,
            },
            "annotations": dict(annotations or {}),
            "linux": {
                "cgroup_parent": f"{self.cgroup}/pod{uid}" if self.cgroup else "",
                # Kubelet's default; the CRI's own would be one PID namespace for the whole pod.
                "security_context": {"namespace_options": {"pid": "CONTAINER"}},
            },
        } | config
        answer = self.call(
            "RunPodSandbox", config=sandbox, runtime_handler=handler, deadline=deadline
        )
        return Pod(self, answer.pod_sandbox_id, sandbox)


@dataclass
class Pod:
    """A sandbox and its containers; as a context manager it is removed at the end."""

    cri: Cri
    id: str
    config: dict[str, Any]
    containers: list[Container] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.config["metadata"]["name"])

    @property
    def ip(self) -> str:
        status = self.cri.call("PodSandboxStatus", pod_sandbox_id=self.id).status
        return str(status.network.ip)

    def create(
        self,
        name: str,
        image: str,
        command: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        mounts: Iterable[Mapping[str, Any]] = (),
        annotations: Mapping[str, str] | None = None,
        attempt: int = 0,
        deadline: float = 120,
        **config: Any,
    ) -> Container:
        """Create a container; ``config`` overrides ContainerConfig's fields."""
        linux = {"security_context": {"namespace_options": {"pid": "CONTAINER"}}}
        settings: dict[str, Any] = {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": image},
            "command": list(command),
            "envs": [{"key": key, "value": value} for key, value in (env or {}).items()],
            "mounts": list(mounts),
            "labels": self.config["labels"] | {"io.kubernetes.container.name": name},
            "annotations": dict(annotations or {}),
            "log_path": f"{name}/{attempt}.log",
            "linux": linux,
        } | config
        answer = self.cri.call(
            "CreateContainer",
            pod_sandbox_id=self.id,
            config=settings,
            sandbox_config=self.config,
            deadline=deadline,
        )
        container = Container(self, answer.container_id, settings)
        self.containers.append(container)
        return container

    def run(self, name: str, image: str, command: Sequence[str] = (), **config: Any) -> Container:
        """Create and start a container."""
        container = self.create(name, image, command, **config)
        container.start()
        return container

    def remove(self) -> None:
        """Stop and remove the pod with all its containers; their logs stay."""
        self.cri.call("StopPodSandbox", pod_sandbox_id=self.id)
        self.cri.call("RemovePodSandbox", pod_sandbox_id=self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


@dataclass
class Container:
    """A container of a pod."""

    pod: Pod
    id: str
    config: dict[str, Any]

    def call(self, method: str, /, **fields: Any) -> Any:
        return self.pod.cri.call(method, container_id=self.id, **fields)

    def start(self, *, deadline: float = 120) -> None:
        self.call("StartContainer", deadline=deadline)

    def stop(self, grace: int = 10) -> None:
        self.call("StopContainer", timeout=grace, deadline=grace + 60)

    def remove(self) -> None:
        self.call("RemoveContainer")

    def status(self, *, verbose: bool = False) -> Any:
        """ContainerStatus; with ``verbose`` the whole answer, with containerd's ``info``."""
        answer = self.call("ContainerStatus", verbose=verbose)
        return answer if verbose else answer.status

    @property
    def state(self) -> str:
        """The state by its name, such as CONTAINER_RUNNING."""
        status = self.status()
        names = status.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number
        return str(names[status.state].name)

    @property
    def log(self) -> str:
        """The path of the log inside the node."""
        return f"{self.pod.config['log_directory']}/{self.config['log_path']}"

    def exec(self, *command: str, timeout: int = 30) -> Output:
        """Run a command in the container."""
        answer = self.call("ExecSync", cmd=list(command), timeout=timeout)
        decode = (answer.stdout.decode(errors="replace"), answer.stderr.decode(errors="replace"))
        return Output(answer.exit_code, *decode)

    def wait(self, *, timeout: float = 30) -> int:
        """Wait until the container has ended; the answer is its exit code."""
        deadline = time.monotonic() + timeout
        while self.state != EXITED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.config['metadata']['name']} runs after {timeout:.0f} s")
            time.sleep(0.05)
        return int(self.status().exit_code)


@memoize
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in definition().file:
        pool.Add(file)
    return pool


def definition() -> descriptor_pb2.FileDescriptorSet:
    """The CRI's published definition, compiled."""
    source = gobuild.module_file("kubernetes", "k8s.io/cri-api", API)
    with tempfile.TemporaryDirectory(dir=cache.root()) as scratch:
        output = Path(scratch) / "set"
        options = [f"--proto_path={source.parent}", f"--descriptor_set_out={output}"]
        if protoc.main(["protoc", *options, "--include_imports", source.name]):
            raise RuntimeError(f"protoc cannot read {source}")
        return descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())


@memoize
def _method(name: str) -> tuple[str, Any, Any]:
    """A method's path and the classes of its request and response."""
    for service in ("RuntimeService", "ImageService"):
        descriptor = _pool().FindServiceByName(f"runtime.v1.{service}")
        if found := descriptor.methods_by_name.get(name):
            request, response = (
                message_factory.GetMessageClass(kind)
                for kind in (found.input_type, found.output_type)
            )
            return f"/runtime.v1.{service}/{name}", request, response
    raise ValueError(f"the CRI has no call {name}")
