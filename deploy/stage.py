#!/usr/bin/env python3
"""Make the tree that is installed on a node: ``stage.py DEST --python 3.13``.

    DEST/bin/podthaw            the node daemon and command line
    DEST/bin/podthaw-runc       the OCI runtime that containerd calls
    DEST/bin/podthaw-nvidia-runtime  the same for containers with a GPU
    DEST/bin/podthaw-dropin     gives containerd Podthaw's runtimes
    DEST/lib/                   shim, cri and their locked dependencies
    DEST/config/containerd.toml Podthaw's settings and containerd's drop-in
    DEST/nvidia/runtimes/       links to podthaw-runc, for podthaw-nvidia-runtime

The tree must be copied to the prefix that it was made for (``--prefix``, /opt/podthaw): the
launchers name it, since looking for it would cost time at every container start. It fits the one
Python that is asked for, which must be the node's own /usr/bin/python3. On the node, run
``python3 -m compileall --invalidation-mode unchecked-hash PREFIX/lib`` once, or every start
compiles again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LOCK = REPOSITORY / "requirements/run.lock"
PACKAGES = ("shim", "cri")
# pip takes a wheel of any of these; nodes older than glibc 2.28 are older than containerd 1.7.
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")

# -I: neither the environment nor the working directory has a say in what a root process imports.
# -S: without site-packages the interpreter starts 10 ms sooner; the shim needs none.
# A collector of garbage has nothing to find in a process that ends so soon, but it looks.
# A shell first, in what is a string for Python: `start` has nothing to do but to end, or to become
# the runtime below (shim/__main__.py), and an interpreter takes five times as long for that.
RUNTIME_LAUNCHER = """\
#!/bin/sh
''':'
previous='' last='' journal=''
for word; do previous=$last last=$word; done
run=${{PODTHAW_RUN:-/run/podthaw}}
case $previous:$last in
    start:*/*) ;;
    start:?*)
        if [ -f "$run/restores/$last" ]; then
            IFS= read -r journal < "$run/restores/$last"
        elif [ -z "$PODTHAW_RUNC_LEVEL" ] && [ -f "$run/runtime" ] && [ -x "$run/runtime" ] &&
            ! [ "$run/runtime" -ef "$0" ]; then
            export PODTHAW_RUNC_LEVEL=1
            exec "$run/runtime" "$@"
        fi ;;
esac
case $journal in
    *'"locked": {{"'*) ;;
    *'"done": true'*) exit 0 ;;
esac
exec /usr/bin/python3 -IS "$0" "$@"
'''
import gc
import sys

gc.disable()
sys.path.insert(0, "{prefix}/lib")
from shim.__main__ import leave, main

leave(main())
"""
COMMAND_LAUNCHER = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "{prefix}/lib")
from cri.__main__ import main

sys.exit(main())
"""


def stage(destination: Path, python: str, *, prefix: str, cache: Path | None) -> None:
    """Write the whole tree; ``destination`` must not exist."""
    library = destination / "lib"
    if cache is None:
        install_dependencies(library, python)
    else:
        shutil.copytree(cached_dependencies(cache, python), library)
    for package in PACKAGES:
        skip = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(REPOSITORY / package, library / package, ignore=skip)
    write_launcher(destination / "bin/podthaw", COMMAND_LAUNCHER.format(prefix=prefix))
    write_launcher(destination / "bin/podthaw-runc", RUNTIME_LAUNCHER.format(prefix=prefix))
    for script, name in (
        ("dropin", "podthaw-dropin"),
        ("nvidia_runtime", "podthaw-nvidia-runtime"),
    ):
        shutil.copy2(REPOSITORY / f"deploy/{script}.py", destination / "bin" / name)
    shutil.copytree(REPOSITORY / "config", destination / "config")
    runtimes = destination / "nvidia/runtimes"
    runtimes.mkdir(parents=True)
    for name in ("runc", "crun"):  # that NVIDIA's runtime looks for by default
        (runtimes / name).symlink_to("../../bin/podthaw-runc")


def write_launcher(path: Path, text: str) -> None:
    """Write an executable script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def cached_dependencies(cache: Path, python: str) -> Path:
    """The installed dependencies, kept by what they are made of."""
    final = cached_dependencies_folder(cache, python)
    if not final.exists():
        partial = cache / f".partial-{final.name}-{os.getpid()}"
        install_dependencies(partial, python)
        try:
            partial.rename(final)
        except OSError:  # someone else was quicker
            shutil.rmtree(partial)
    return final


def cached_dependencies_folder(cache: Path, python: str) -> Path:
    """Where they are kept."""
    digest = hashlib.sha256(LOCK.read_bytes() + python.encode()).hexdigest()[:12]
    return cache / f"dependencies-{python}-{platform.machine()}-{digest}"


def install_dependencies(target: Path, python: str) -> None:
    """Install the locked wheels for another Python than the one that runs this."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile"]
    command += ["--implementation=cp", f"--python-version={python}", f"--target={target}"]
    command += [f"--platform={name}_{platform.machine()}" for name in PLATFORMS]
    subprocess.run([*command, "--requirement", str(LOCK)], check=True)


def main() -> None:
    """Read the command line and make the tree."""
    parser = argparse.ArgumentParser(description="make the tree that is installed on a node")
    parser.add_argument("destination", type=Path, metavar="DEST")
    parser.add_argument("--python", required=True, metavar="X.Y", help="the node's Python version")
    parser.add_argument("--prefix", default="/opt/podthaw", help="where the node will have it")
    parser.add_argument("--cache", type=Path, help="keep installed dependencies here")
    options = parser.parse_args()
    if options.destination.exists():
        parser.error(f"{options.destination} exists")
    stage(options.destination, options.python, prefix=options.prefix, cache=options.cache)


if __name__ == "__main__":
    main()
