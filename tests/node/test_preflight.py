"""Preflight tells, of real processes in real containers, what would make a dump fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.node import capturing, images
from tests.node.cri import Cri
from tests.node.node import Node

pytestmark = pytest.mark.node

HEAD = """
import ctypes, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    found = libc.syscall(*words)
    if found < 0:
        print("errno", os.strerror(ctypes.get_errno()), flush=True)
        sys.exit(1)
    return found
"""
TAIL = """
print("ready", flush=True)
time.sleep(3600)
"""
PROGRAMS = {
    "io-uring": "call(425, 4, ctypes.create_string_buffer(120))",
    "descriptor": "call(323, 1)",  # userfaultfd, for this process's own faults
    "device": "os.mknod('/dev/tun', 0o020666, os.makedev(10, 200)); os.open('/dev/tun', os.O_RDWR)",
    "socket": "kept = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",  # MPTCP
    "mqueue": (
        "kept = ctypes.CDLL('librt.so.1').mq_open(b'/jobs', os.O_CREAT | os.O_RDWR, 0o600, None)"
    ),
    "shared-code": "call(9, 0x100000, 4096, 5, 0x31, -1, 0)",  # mmap below all other code
    "nested-namespaces": "call(272, 0x04000000) if os.fork() == 0 else None",  # unshare, UTS
    "netlink": (
        "kept = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); kept.bind((0, 0)); "
        "kept.send(bytes.fromhex('1400000016000103010000000000000000000000'))"
    ),
}
PRIVILEGED = {"nested-namespaces", "descriptor"}


@pytest.fixture(scope="module")
def cri(node: Node) -> Iterator[Cri]:
    with node.cri() as client:
        yield client


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_process_holds(node: Node, cri: Cri, name: str) -> None:
    config: dict[str, Any] = {}
    if name in PRIVILEGED:
        config["linux"] = {
            "security_context": {
                "namespace_options": {"pid": "CONTAINER"},
                "capabilities": {"add_capabilities": ["SYS_ADMIN", "SYS_PTRACE"]},
            }
        }
    with capturing.program(cri, HEAD + PROGRAMS[name] + TAIL, **config) as container:
        capturing.wait_ready(node, container)
        found = capturing.check(node, container)
        assert name in found, found
        assert found[name]["what"]
        assert found[name]["remedy"]


def test_a_plain_program_has_no_finding(node: Node, cri: Cri) -> None:
    with capturing.busy(node, cri) as container:
        assert capturing.check(node, container) == {}


def test_a_terminal(node: Node, cri: Cri) -> None:
    with capturing.program(cri, "import time; time.sleep(3600)", tty=True) as container:
        assert "terminal" in capturing.check(node, container)


def test_a_shared_pid_namespace(node: Node, cri: Cri) -> None:
    shared = {"security_context": {"namespace_options": {"pid": "POD"}}}
    with cri.run_pod(capturing.unique("shared"), linux=shared) as pod:
        container = pod.run("main", images.BUSYBOX, ["sleep", "999"], linux=shared)
        found = capturing.check(node, container)
        assert found["pid-namespace"]["severity"] == "fail"


def test_a_connection_to_a_process_outside(node: Node, cri: Cri) -> None:
    server = (
        "import os, socket, time; os.makedirs('/run/outside', exist_ok=True)\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('/run/outside/s'); s.listen()\n"
        "kept = [s.accept() for _ in range(1)]; time.sleep(3600)"
    )
    node.exec(["rm", "-rf", "/run/outside"])
    node.spawn("outside", ["python3", "-c", server])
    node.wait(
        "socket", lambda: node.exec(["test", "-S", "/run/outside/s"], check=False).status == 0
    )
    try:
        mounts = [{"container_path": "/outside", "host_path": "/run/outside"}]
        code = HEAD + "s = socket.socket(socket.AF_UNIX); s.connect('/outside/s')" + TAIL
        with capturing.program(cri, code, mounts=mounts) as container:
            capturing.wait_ready(node, container)
            found = capturing.check(node, container)
            assert "unix-socket" in found, found
    finally:
        node.kill("outside")


def test_a_tracer(node: Node, cri: Cri) -> None:
    with capturing.program(cri, HEAD + TAIL) as container:
        capturing.wait_ready(node, container)
        pid = capturing.pid_of(container)
        node.spawn("tracer", ["strace", "-o", "/dev/null", "-p", str(pid)])
        try:
            node.wait("tracer", lambda: "traced" in capturing.check(node, container))
        finally:
            node.kill("tracer")


def test_a_paused_container(node: Node, cri: Cri) -> None:
    with capturing.program(cri, HEAD + TAIL) as container:
        capturing.wait_ready(node, container)
        node.exec(["ctr", "-n", "k8s.io", "tasks", "pause", container.id])
        try:
            assert "paused" in capturing.check(node, container)
        finally:
            node.exec(["ctr", "-n", "k8s.io", "tasks", "resume", container.id])


def test_a_submount_that_nobody_declared(node: Node, cri: Cri) -> None:
    node.exec(["mkdir", "-p", "/run/tree/below"])
    node.exec(["mount", "-t", "tmpfs", "below", "/run/tree/below"])
    try:
        mounts = [{"container_path": "/tree", "host_path": "/run/tree"}]
        with capturing.program(cri, HEAD + TAIL, mounts=mounts) as container:
            found = capturing.check(node, container)
            assert "/tree/below" in found["submount"]["what"]
    finally:
        node.exec(["umount", "/run/tree/below"])


def test_a_process_that_exec_started_is_a_warning(node: Node, cri: Cri) -> None:
    with capturing.program(cri, HEAD + TAIL) as container:
        capturing.wait_ready(node, container)
        container.exec("sh", "-c", "sleep 300 >/dev/null 2>&1 & sleep 0.2")
        script = ["ctr", "-n", "k8s.io", "tasks", "exec", "--exec-id", "x", container.id]
        node.spawn("exec", [*script, "sleep", "300"])
        try:
            node.wait("exec", lambda: "exec" in capturing.check(node, container))
            assert capturing.check(node, container)["exec"]["severity"] == "warn"
        finally:
            node.kill("exec")
