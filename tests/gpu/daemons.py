"""The daemons of the carried node, and what they keep: containerd, Podthaw, the GPU's counters."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.gpu import cdi

FILES = Path(__file__).parents[1] / "node/files"
CONTAINERD = "/run/containerd/containerd.sock"
PROXY = "/run/podthaw/podthaw.sock"
LOGS = Path("/var/log/node")
RUN = Path("/run/podthaw")
STORE = Path("/var/lib/podthaw/store")
CGROUP = "podthaw-gpu"
PYTHON = "3.14"
"""The node's, which is Debian sid's."""


class Daemons:
    """containerd and the proxy, as child processes; a context manager."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def pid(self, name: str) -> int:
        """Process id of a daemon."""
        return self._running[name].pid

    def stop(self) -> None:
        """End them, the proxy first."""
        for process in reversed(self._running.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def _start(self) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        for folder in ("/var/lib/ctd", "/etc/containerd", "/etc/cni/net.d", "/etc/cdi"):
            Path(folder).mkdir(parents=True, exist_ok=True)
        text = (FILES / "containerd.toml").read_text()
        Path("/etc/containerd/config.toml").write_text(text + NVIDIA)
        toolkit = Path("/etc/nvidia-container-runtime/config.toml")
        toolkit.parent.mkdir(parents=True)
        toolkit.write_text(TOOLKIT)
        shutil.copy(FILES / "cni.conflist", "/etc/cni/net.d/10-node.conflist")
        Path("/etc/cdi/nvidia.json").write_text(json.dumps(cdi.specification(), indent=1))
        stage = ["python3", "deploy/stage.py", "/opt/podthaw", "--python", PYTHON]
        run([*stage, "--cache", "/carried/cache"])
        compile_all = ["python3", "-m", "compileall", "-q", "-j0", "/opt/podthaw/lib"]
        run([*compile_all, "--invalidation-mode", "unchecked-hash"])
        run(["/opt/podthaw/bin/podthaw-dropin", "/opt/podthaw/config/containerd.toml"])
        self._spawn("containerd", ["containerd"], CONTAINERD)
        for name in ("pause", "gpu"):
            run(["ctr", "-n", "k8s.io", "images", "import", f"/carried/{name}.oci.tar"])
        self._spawn("proxy", ["/opt/podthaw/bin/podthaw", "proxy"], PROXY)

    def _spawn(self, name: str, command: Sequence[str], address: str) -> None:
        with (LOGS / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._running[name] = process
        wait(f"answer of {name}", lambda: process.poll() is not None or accepts(address))
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended at once:\n{tail(LOGS / f'{name}.log')}")


TOOLKIT = """
# nvidia-ctk, which runs the hooks by default, is not carried along.
[nvidia-ctk]
  path = "/usr/bin/nvidia-cdi-hook"
"""

NVIDIA = """
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia]
  runtime_type = "io.containerd.runc.v2"
  sandboxer = "podsandbox"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia.options]
    BinaryName = "/usr/bin/nvidia-container-runtime"
"""


def run(command: Sequence[str], *, timeout: float = 600) -> str:
    """Run a program to its end; its output. RuntimeError, with all it said, when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr[-3000:]}")
    return done.stdout


def podthaw(*arguments: str, timeout: float = 600) -> str:
    """Run ``podthaw …``."""
    return run(["/opt/podthaw/bin/podthaw", *arguments], timeout=timeout)


def wait(what: str, condition: Callable[[], object], timeout: float = 60) -> None:
    """Wait until something is so; TimeoutError with ``what``."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {timeout:.0f} s")
        time.sleep(0.002)


def accepts(address: str) -> bool:
    """Whether someone listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
        except OSError:
            return False
    return True


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a file."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return str(error)


def smi(*arguments: str) -> str:
    """What nvidia-smi answers; nothing where it is not."""
    for place in ("/usr/local/nvidia/bin/nvidia-smi", "/host/usr/bin/nvidia-smi"):
        if Path(place).exists():
            return run([place, *arguments]).strip()
    return ""


def device_memory() -> int | None:
    """MiB of the first GPU in use."""
    text = smi("--query-gpu=memory.used", "--format=csv,noheader,nounits")
    return int(text.splitlines()[0]) if text else None


def _programs() -> int:
    """Processes of the node: those in its own mount namespace, and no container's."""
    own = Path("/proc/self/ns/mnt").readlink()
    found = 0
    for path in Path("/proc").glob("[0-9]*/ns/mnt"):
        with contextlib.suppress(OSError):
            found += path.readlink() == own
    return found


def footprint(daemons: Daemons) -> dict[str, int | None]:
    """Counts of what a start could leave: they must not grow."""
    containers = list(Path("/sys/fs/cgroup").glob(f"**/{CGROUP}/*/*/cgroup.procs"))
    found: dict[str, int | None] = {
        "device_mib": device_memory(),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "processes": _programs(),
        "cgroups": len(containers),
    }
    for name in ("plans", "restores", "captures", "locks"):
        with contextlib.suppress(OSError):
            found[name] = sum(1 for _ in (RUN / name).iterdir())
    for name in ("tmp", "pins", "snapshots"):
        with contextlib.suppress(OSError):
            found[f"store_{name}"] = sum(len(files) for _, _, files in os.walk(STORE / name))
    for name in ("containerd", "proxy"):
        found[f"{name}_files"] = sum(1 for _ in Path(f"/proc/{daemons.pid(name)}/fd").iterdir())
    return found
