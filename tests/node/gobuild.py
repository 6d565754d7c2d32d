"""Go programs, built from the Go module proxy; go.sum in tests/node/go pins every source file.

The machine's own Go builds them where it is new enough to fetch the toolchain that a go.mod asks
for, else Debian's in a container.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import ImageNotFound

from tests.node import cache, debian, engine
from tests.node.debian import Unavailable
from tests.node.oci import ARCHITECTURES

MODULES = Path(__file__).parent / "go"
OLDEST_GO = (1, 21)  # the first that downloads a newer toolchain by itself
KUBERNETES_VERSION = "v1.35.4"
CONTAINERD_VERSION = "v2.4.2"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Program:
    """A main package of a module whose go.mod is in tests/node/go/``module``."""

    name: str
    module: str
    package: str
    minutes: str
    """How long a cold build takes on two cores, for those who wait."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What the linker sets, the version above all."""
    native: bool = False
    """Whether it has parts in C."""

    @property
    def directory(self) -> Path:
        return MODULES / self.module

    @property
    def arguments(self) -> list[str]:
        """The arguments of ``go build``, without ``-o``."""
        flags = " ".join(f"-X {name}={value}" for name, value in self.variables.items())
        return ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {flags}".strip(), self.package]

    @property
    def key(self) -> str:
        files = [self.directory / "go.mod", self.directory / "go.sum"]
        return cache.key(platform.machine(), *self.arguments, *files)


def _kubernetes(name: str, minutes: str) -> Program:
    base = "k8s.io/component-base/version"
    variables = {f"{base}.gitVersion": KUBERNETES_VERSION, f"{base}.gitTreeState": "clean"}
    return Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", minutes, variables)


def _containerd(name: str) -> Program:
    base = "github.com/containerd/containerd/v2"
    variables = {f"{base}/version.Version": CONTAINERD_VERSION}
    return Program(name, "containerd", f"{base}/cmd/{name}", "1 to 2 min", variables)


KUBELET = _kubernetes("kubelet", "5 to 7 min")
CONTROL_PLANE = tuple(
    _kubernetes(name, "1 to 2 min")
    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
)
CONTAINERD = tuple(_containerd(name) for name in ("containerd", "containerd-shim-runc-v2", "ctr"))
CHECKPOINTCTL = Program(
    "checkpointctl",
    "checkpointctl",
    "github.com/checkpoint-restore/checkpointctl",
    "1 min",
    {"main.version": "v1.6.0"},
)


TOOLKIT = tuple(
    Program(
        name,
        "toolkit",
        f"github.com/NVIDIA/nvidia-container-toolkit/cmd/{name}",
        "1 to 2 min",
        native=True,
    )
    for name in ("nvidia-container-runtime", "nvidia-cdi-hook", "nvidia-ctk")
)
"""NVIDIA's container toolkit, of which these three need no driver to start."""


def binary(program: Program) -> Path:
    """The program's file in the cache, built if it is not there."""

    def make(target: Path) -> None:
        with cache.step(f"building {program.name} ({program.minutes})"):
            arguments = ["build", *program.arguments]
            _go(program.module, arguments, output=target, native=program.native)

    return cache.once(f"{program.name}-{program.key}", make)


def module_file(module: str, dependency: str, path: str) -> Path:
    """A source file of a module that tests/node/go/``module`` depends on, copied to the cache."""
    files = [MODULES / module / "go.mod", MODULES / module / "go.sum"]
    name = f"{Path(path).stem}-{cache.key(dependency, path, *files)}{Path(path).suffix}"

    def make(target: Path) -> None:
        with cache.step(f"fetching {path} of {dependency}"):
            answer = _go(module, ["mod", "download", "-json", dependency], copy=path, output=target)
        if answer is not None:
            shutil.copyfile(Path(json.loads(answer)["Dir"]) / path, target)

    return cache.once(name, make)


def _go(
    module: str,
    arguments: Sequence[str],
    *,
    output: Path,
    copy: str = "",
    native: bool = False,
) -> str | None:
    """Run the go command in a module; a build, or with ``copy`` a file's copy, is at ``output``.

    Answers what it printed, or ``None`` when the copy is already made.
    """
    if arguments[0] == "build":
        arguments = ["build", "-o", str(output), *arguments[1:]]
    run: Callable[..., str | None] = _on_host if _host_go(native=native) else _in_container
    return run(MODULES / module, arguments, output=output, copy=copy, native=native)


def _host_go(*, native: bool) -> bool:
    if not shutil.which("go") or (native and not shutil.which("gcc")):
        return False
    version = subprocess.run(["go", "version"], capture_output=True, text=True, check=False)
    found = re.search(r"go(\d+)\.(\d+)", version.stdout)
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST_GO


def _environment(*, native: bool) -> dict[str, str]:
    # Writable modules: the cache can be deleted by its owner.
    return {"CGO_ENABLED": f"{native:d}", "GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "auto"}


def _on_host(
    directory: Path, arguments: Sequence[str], *, output: Path, copy: str, native: bool
) -> str:
    del output, copy  # the command writes the one itself, the caller makes the other
    result = subprocess.run(
        ["go", *arguments],
        cwd=directory,
        env=os.environ | _environment(native=native),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise Unavailable(f"go {' '.join(arguments)} failed:\n{result.stderr[-3000:]}")
    return result.stdout


def _in_container(
    directory: Path, arguments: Sequence[str], *, output: Path, copy: str, native: bool
) -> str | None:
    """The same in a container with Debian's Go, whose caches are kept beside ours."""
    client = engine.connect()
    compiler = ["gcc", "libc6-dev"] if native else []
    tree = debian.tree("sid", ["ca-certificates", "golang-go", *compiler])
    name, tag = "podthaw-go", tree.stem.rpartition("-")[2]
    try:
        client.images.get(f"{name}:{tag}")
    except ImageNotFound:
        with cache.step(f"importing {name}:{tag}"):
            client.api.import_image_from_file(str(tree), repository=name, tag=tag)
    state = cache.root() / "go"
    state.mkdir(exist_ok=True)
    volumes = {
        str(directory): {"bind": "/src", "mode": "ro"},
        str(state): {"bind": "/root", "mode": "rw"},
        str(output.parent): {"bind": str(output.parent), "mode": "rw"},
    }
    if CERTIFICATES.exists():  # the machine's may know more authorities than Debian's
        volumes[str(CERTIFICATES)] = {"bind": str(CERTIFICATES), "mode": "ro"}
    passed = {key: value for key, value in os.environ.items() if key in {"GOPROXY", "GOSUMDB"}}
    command: list[str] = ["go", *arguments]
    if copy:
        script = 'dir=$(go mod download -json "$1" | sed -n \'s/.*"Dir": "\\(.*\\)".*/\\1/p\')'
        command = ["sh", "-c", f'{script} && cp "$dir/$2" "$3"', "sh", arguments[-1], copy]
        command.append(str(output))
    client.containers.run(
        f"{name}:{tag}",
        command,
        working_dir="/src",
        volumes=volumes,
        environment=_environment(native=native) | passed,
        remove=True,
    )
    return None


def architecture() -> str:
    """This machine's architecture by Go's name for it."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())
