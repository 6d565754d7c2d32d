"""A node whose root has no CAP_SYS_RESOURCE, made to dump programs of every user all the same.

A real node's root has that capability, and CRIU needs it: prlimit(2) shows nobody else's limits
without it, so that each process which is not root's ends the dump (``Can't get rlimit``). The test
node lacks it, since the machine that the tests run on may have none to give. There a small library
(files/criu_limits.c) is loaded before CRIU's own, which reads what prlimit refuses from
/proc/PID/limits. It answers a question and changes nothing: dump and images are those of a real
node. A restore asks no such question.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

from tests.node import cache
from tests.node.container import CACHE, NodeContainer

SOURCE = Path(__file__).parent / "files" / "criu_limits.c"
CAP_SYS_RESOURCE = 24
CRIU = "/usr/sbin/criu"
REAL = "/usr/libexec/criu"
"""The folder that CRIU itself is moved to."""

# In CRIU's own place, so that a test can put another before it on PATH; and found by its name
# again, so that a process list shows `criu dump` as on a real node.
_WRAPPER = f"""#!/bin/sh
PATH={REAL}:$PATH
[ "$1" != dump ] || export LD_PRELOAD=LIBRARY
exec criu "$@"
"""


def show_limits(node: NodeContainer) -> bool:
    """Let CRIU see every user's limits; False where it cannot: the machine has no C compiler."""
    if has_capability(node):
        return True
    if not shutil.which("cc"):
        return False
    built = library()
    inside = f"{CACHE}/{built.relative_to(cache.root())}"
    node.exec(["sh", "-c", f"mkdir -p {REAL} && mv {CRIU} {REAL}/"])
    node.write(CRIU, _WRAPPER.replace("LIBRARY", inside), mode=0o755)
    return True


def library() -> Path:
    """The compiled library in the cache."""
    command = ["cc", "-O2", "-shared", "-fPIC", str(SOURCE), "-ldl", "-o"]

    def build(target: Path) -> None:
        subprocess.run([*command, str(target)], check=True)

    key = cache.key(SOURCE, platform.machine(), *command[:4])
    return cache.once(f"criu-limits-{key}.so", build)


def has_capability(node: NodeContainer) -> bool:
    """Whether root may look at every user's limits there."""
    status = node.read("/proc/1/status").decode()
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    return bool(int(bounding.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
