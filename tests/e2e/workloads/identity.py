"""What the container knows of its pod: new in a restored one. And what stays: the environment."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from .behaviour import Answer, Behaviour, attempt, behaviour

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
STARTED_WITH = dict(os.environ)


def read() -> Answer:
    """Read everything now, as a program would."""
    addresses = subprocess.run(
        ["ip", "-4", "-o", "addr", "show", "scope", "global"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return {
        "hostname": socket.gethostname(),
        "uname": os.uname().nodename,
        "/etc/hostname": attempt(lambda: Path("/etc/hostname").read_text().strip()),
        "/etc/hosts": attempt(lambda: Path("/etc/hosts").read_text()),
        "/etc/resolv.conf": attempt(lambda: Path("/etc/resolv.conf").read_text()),
        "token": attempt((ACCOUNT / "token").read_text),
        "addresses": [part.partition("/")[0] for part in addresses if part.count(".") == 3],
        "env": dict(os.environ),
        "volume": attempt(lambda: sorted(path.name for path in Path("/volume").iterdir())),
        "pid": os.getpid(),
        "cgroup": Path("/proc/self/cgroup").read_text(),
        "uid": os.getuid(),
    }


@behaviour
class Environment(Behaviour):
    """The environment of a running program stays what it was."""

    def set_up(self) -> None:
        os.environ["SET_LATER"] = "by the program"

    def observe(self) -> Answer:
        return {
            "set later": os.environ["SET_LATER"],
            "unchanged": {key: value for key, value in os.environ.items() if key != "SET_LATER"}
            == {key: value for key, value in STARTED_WITH.items() if key != "SET_LATER"},
        }
