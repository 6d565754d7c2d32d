"""Debian trees by debootstrap, from the mirror that this machine's own apt uses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.node import cache

APT_SOURCES = Path("/etc/apt")


class Unavailable(Exception):
    """Something that the node needs is not on this machine and cannot be brought here."""


def tree(suite: str, packages: Iterable[str]) -> Path:
    """A cached tar of a minimal Debian with these packages."""
    wanted = sorted(packages)
    name = f"debian-{suite}-{cache.key(suite, *wanted)}.tar"

    def build(target: Path) -> None:
        install("debootstrap")
        if os.geteuid() != 0:
            raise Unavailable("debootstrap needs root to build the node's Debian tree")
        with (
            tempfile.TemporaryDirectory(dir=cache.root(), prefix=".debian-") as scratch,
            cache.step(f"Debian {suite} with {len(wanted)} packages (1 to 3 min)"),
        ):
            directory = Path(scratch) / "tree"
            _debootstrap(suite, wanted, directory, Path(scratch) / "log")
            for leftover in ("var/cache/apt/archives", "var/lib/apt/lists"):
                shutil.rmtree(directory / leftover)
                (directory / leftover).mkdir()
            run = ["tar", "--create", "--xattrs", "--xattrs-include=*", "--numeric-owner"]
            run += ["--one-file-system", f"--file={target}", f"--directory={directory}", "."]
            subprocess.run(run, check=True)

    return cache.once(name, build)


def install(*packages: str) -> None:
    """Install Debian packages on this machine, unless programs of that name are there."""
    if all(shutil.which(package) for package in packages):
        return
    names = " ".join(packages)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(f"please install {names}: this is no root account with apt-get")
    with cache.step(f"apt-get install {names}"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        # A mirror may be a frozen one, whose index says that it has expired.
        apt = ["apt-get", "-qq", "-o", "Acquire::Check-Valid-Until=false"]
        subprocess.run([*apt, "update"], env=environment, check=False)
        result = subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *packages],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
    if result.returncode:
        raise Unavailable(f"apt-get install {names} failed:\n{result.stderr.strip()}")


def mirror() -> str | None:
    """The Debian mirror that this machine's apt names; ``None`` leaves debootstrap its default."""
    pattern = re.compile(r"https?://\S+/debian/?(?=\s|$)")
    for text in _apt_sources():
        if found := pattern.search(text):
            return found.group()
    return None


def _apt_sources() -> Iterator[str]:
    parts = APT_SOURCES / "sources.list.d"
    for path in [APT_SOURCES / "sources.list", *sorted(parts.glob("*"))]:
        if path.suffix in {".list", ".sources"} and path.is_file():
            lines = path.read_text(errors="replace").splitlines()
            yield "\n".join(line for line in lines if not line.startswith("#"))


def _debootstrap(suite: str, packages: list[str], directory: Path, log: Path) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}"]
    command += [suite, str(directory), *filter(None, [mirror()])]
    with log.open("w") as output:
        result = subprocess.run(command, stdout=output, stderr=output, check=False)
    if result.returncode:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise Unavailable(f"{' '.join(command)} failed:\n{tail}")
