"""A GPU's device nodes, libraries and variables on their way into a container, cold and restored.

The GPUs are fake ones (tests/fakegpu), described in CDI as nvidia-ctk describes real ones, with the
hooks that it adds. What brings them into the container is real: containerd's own support of CDI,
and NVIDIA's container runtime in its mode "cdi".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from tests.conftest import StartNode
from tests.e2e.conftest import WEB
from tests.e2e.pods import Pod, Running
from tests.e2e.stack import Stack, is_cold
from tests.fakegpu import DEVICES, HOME
from tests.fakegpu.node import PROGRAM, Gpus, wait_for_steps
from tests.node import gobuild, images
from tests.node.node import PREFIX, Node

pytestmark = pytest.mark.node

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
LIBRARY = "libfakegpu.so.1.2.3"
HOOK = "/usr/bin/nvidia-cdi-hook"
OPERATOR = "/usr/local/nvidia/toolkit"
PARAMS = "/proc/version"
PARAMS_HOOK = "/opt/driver/cover"


def hook(name: str, *arguments: str) -> dict[str, object]:
    """A hook as nvidia-ctk writes it."""
    command = ["nvidia-cdi-hook", name, *arguments]
    return {"hookName": "createContainer", "path": HOOK, "args": command}


SPECIFICATION = {
    "cdiVersion": "0.6.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {
            "name": name,
            "containerEdits": {
                "deviceNodes": [{"path": f"/dev/nvidia{number}"} for number in numbers],
                "env": [f"FAKE_GPUS={len(numbers)}"],
            },
        }
        for name, numbers in {"0": (0,), "1": (1,), "all": (0, 1)}.items()
    ],
    "containerEdits": {
        "deviceNodes": [{"path": "/dev/nvidiactl"}],
        "env": ["FAKE_DRIVER=580.1"],
        "mounts": [
            {
                "hostPath": "/opt/driver/current/library",  # by symbolic links
                "containerPath": f"{LIBRARIES}/{LIBRARY}",
                "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
            }
        ],
        "hooks": [
            hook("create-symlinks", "--link", f"{LIBRARY}::{LIBRARIES}/libfakegpu.so"),
            hook("disable-device-node-modification"),
            hook("update-ldcache", "--folder", LIBRARIES),
            {"hookName": "createContainer", "path": PARAMS_HOOK},
        ],
    },
}

# What "disable-device-node-modification" does where the driver has /proc/driver/nvidia/params: it
# covers that file by one in a tmpfs of its own. Here it covers another file of /proc.
COVER = f"""#!/usr/bin/python3
import ctypes, json, os, sys
bundle = json.load(sys.stdin)["bundle"]
root = json.load(open(f"{{bundle}}/config.json"))["root"]["path"]
root = os.path.join(bundle, root)
folder = f"{{root}}/run/nvidia-ctk-hook/8f4cd2"
os.makedirs(folder)
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags, data):
    if libc.mount(source.encode(), target.encode(), kind, flags, data):
        raise OSError(ctypes.get_errno(), target)
mount("tmpfs", folder, b"tmpfs", 0, b"size=4096")
with open(f"{{folder}}/nvct-params", "w") as file:
    file.write("ModifyDeviceFiles: 0\\n")
os.chmod(f"{{folder}}/nvct-params", 0o444)
bind, read_only, no_devices, private, no_links = 4096, 1, 4, 1 << 18, 256
flags = bind | read_only | no_devices | private | no_links
mount(f"{{folder}}/nvct-params", f"{{root}}{PARAMS}", None, flags, None)
"""

# The library is a copy of another, so that ldconfig takes it for one.
SET_UP = f"""
set -e
mknod -m 666 /dev/nvidiactl c 1 3
mkdir -p /opt/driver {OPERATOR}/.config/nvidia-container-runtime /etc/nvidia-container-runtime
cp {LIBRARIES}/libz.so.1 /opt/driver/{LIBRARY}
mkdir /opt/driver/580
ln -s ../{LIBRARY} /opt/driver/580/library
ln -s 580 /opt/driver/current
"""

RUNTIME = """
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{name}]
  runtime_type = "io.containerd.runc.v2"
  sandboxer = "podsandbox"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{name}.options]
    BinaryName = "{program}"
"""

CONFIGURATION = '[nvidia-container-runtime]\nmode = "cdi"\nruntimes = ["docker-runc", "runc"]\n'

# What the GPU Operator's toolkit installer writes in the place of the program.
WRAPPER = f"""#! /bin/sh
NVIDIA_CTK_CONFIG_FILE_PATH={OPERATOR}/.config/nvidia-container-runtime/config.toml \\
PATH={OPERATOR}:$PATH \\
\t{OPERATOR}/nvidia-container-runtime.real \\
\t\t"$@"
"""


def set_runtime(node: Node, program: str) -> None:
    """Let containerd's handler "nvidia" be a program, and install Podthaw for it."""
    path = "/etc/containerd/config.toml"
    before = node.read(path).decode().partition("\n# nvidia\n")[0]
    node.write(path, f"{before}\n# nvidia\n" + RUNTIME.format(name="nvidia", program=program))
    node.exec([f"{PREFIX}/bin/podthaw-dropin", f"{PREFIX}/config/containerd.toml"])


@pytest.fixture(scope="module")
def stack(start_node: StartNode) -> Iterator[Stack]:
    """A node with two fake GPUs and NVIDIA's container toolkit."""
    node = start_node("sid", name="g1")
    node.install_podthaw()
    node.exec(["sh", "-c", SET_UP])
    Gpus(node)
    node.write(PARAMS_HOOK, COVER, mode=0o755)
    node.write("/etc/cdi/nvidia.json", json.dumps(SPECIFICATION))
    for program in gobuild.TOOLKIT:
        node.link(gobuild.binary(program), f"/usr/bin/{program.name}")
    node.write("/etc/nvidia-container-runtime/config.toml", CONFIGURATION)
    set_runtime(node, "/usr/bin/nvidia-container-runtime")
    node.start_containerd()
    running = Stack(node)
    yield running
    running.close()
    node.stop()


def with_gpu(way: str, device: str = "0") -> Pod:
    """WEB with a GPU, injected by containerd or by NVIDIA's runtime."""
    container = WEB.containers[0]
    name = f"nvidia.com/gpu={device}"
    if way == "containerd":
        return replace(WEB, containers=[replace(container, cdi=(name,))])
    env = {**container.env, "NVIDIA_VISIBLE_DEVICES": name}
    return replace(WEB, handler="nvidia", containers=[replace(container, env=env)])


LOOK = f"""
import ctypes, json, os, subprocess
# Of the first process: what runs beside it has the variables of containerd's own specification,
# which NVIDIA's runtime does not change.
first = open("/proc/1/environ").read().split("\\0")
cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
def device(name):
    try:
        found = os.stat(f"/dev/{{name}}").st_rdev
        os.close(os.open(f"/dev/{{name}}", os.O_RDONLY))
        return [os.major(found), os.minor(found)]
    except OSError as error:
        return error.strerror
print(json.dumps({{
    "devices": {{name: device(name) for name in ("nvidia0", "nvidia1", "nvidiactl")}},
    "env": dict(entry.split("=", 1) for entry in first if entry.startswith("FAKE_")),
    "link": os.readlink("{LIBRARIES}/libfakegpu.so"),
    "library": os.stat("{LIBRARIES}/{LIBRARY}").st_size,
    "cached": "libfakegpu" in cache or "{LIBRARY}" in cache,
    "params": open("{PARAMS}").read(),
    "loads": bool(ctypes.CDLL("{LIBRARIES}/libfakegpu.so")),
}}))
"""


def look(pod: Running) -> Mapping[str, object]:
    """What a program in the container has of the GPU."""
    status, answer, error = pod.exec(["/usr/bin/python3", "-c", LOOK])
    assert status == 0, error
    found: Mapping[str, object] = json.loads(answer)
    return found


def right(found: Mapping[str, object], *, gpus: tuple[int, ...] = (0,)) -> None:
    """All that the specification gives is there."""
    absent = "No such file or directory"
    devices = {f"nvidia{n}": list(DEVICES[n]) if n in gpus else absent for n in (0, 1)}
    assert found["devices"] == {**devices, "nvidiactl": [1, 3]}
    assert found["env"] == {"FAKE_DRIVER": "580.1", "FAKE_GPUS": str(len(gpus))}
    assert found["link"] == LIBRARY
    assert found["library"]
    assert found["loads"]
    assert found["params"] == "ModifyDeviceFiles: 0\n"


@pytest.mark.parametrize("way", ["containerd", "nvidia"])
def test_devices_mounts_and_variables_are_there_cold_and_restored(stack: Stack, way: str) -> None:
    pod = with_gpu(way)
    cold = stack.pods.start(pod)
    assert is_cold(cold)
    before = look(cold)
    right(before)
    stack.capture(cold, f"chain-{way}")
    stack.pods.remove(cold)
    with stack.leaves_nothing():
        restored = stack.pods.start(pod.restoring(f"chain-{way}", on_failure="fail"))
        assert not is_cold(restored)
        assert look(restored) == before  # of it the link and the cache were made by hooks
        stack.pods.remove(restored)


def test_gpu_state_comes_back_through_nvidias_runtime(stack: Stack) -> None:
    container = replace(
        with_gpu("nvidia").containers[0],
        image=images.BUSYBOX,
        command=(PROGRAM,),
        args=(),
        mounts=[{"container_path": HOME, "host_path": HOME}],
    )
    pod = replace(with_gpu("nvidia"), containers=[container])
    cold = stack.pods.start(pod, ready=False)
    wait_for_steps(cold)
    stack.capture(cold, "chain-state")
    stack.pods.remove(cold)
    restored = stack.pods.start(pod.restoring("chain-state", on_failure="fail"), ready=False)
    assert min(step.number for step in wait_for_steps(restored)) > 1


def test_the_processes_of_a_restored_container_may_open_its_devices(stack: Stack) -> None:
    pod = with_gpu("nvidia", "all")
    cold = stack.pods.start(pod)
    right(look(cold), gpus=(0, 1))
    stack.capture(cold, "chain-all")
    restored = stack.pods.start(pod.restoring("chain-all", on_failure="fail"))
    right(look(restored), gpus=(0, 1))


def test_the_gpu_operators_runtime_keeps_its_own_configuration(stack: Stack) -> None:
    node = stack.node
    node.write(f"{OPERATOR}/.config/nvidia-container-runtime/config.toml", CONFIGURATION)
    node.write("/etc/nvidia-container-runtime/config.toml", "this is no configuration")
    node.write(f"{OPERATOR}/nvidia-container-runtime", WRAPPER, mode=0o755)
    node.link(gobuild.binary(gobuild.TOOLKIT[0]), f"{OPERATOR}/nvidia-container-runtime.real")
    set_runtime(node, f"{OPERATOR}/nvidia-container-runtime")
    node.exec(["rm", "/usr/bin/nvidia-container-runtime"])
    node.restart_containerd()
    pod = with_gpu("nvidia")
    cold = stack.pods.start(pod)
    right(look(cold))
    stack.capture(cold, "chain-operator")
    restored = stack.pods.start(pod.restoring("chain-operator", on_failure="fail"))
    assert not is_cold(restored)
    right(look(restored))
