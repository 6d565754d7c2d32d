"""Whether this host can guard mapped memory."""

from __future__ import annotations

import os

from shim.guard import MINIMUM_KERNEL, maps


def reason() -> str:
    """See :func:`shim.guard.supported`."""
    name = os.uname()
    with open("/proc/self/status", "rb") as file:
        status = file.read()
    return unsupported(name.machine, name.release, status)


def unsupported(machine: str, release: str, status: bytes) -> str:
    """Why not, from uname(2) and /proc/self/status of a process like the agent; empty if it can."""
    if machine != "x86_64":
        return f"memory can be mapped on x86_64 only, and this host is {machine}"
    found = _version(release)
    if found < MINIMUM_KERNEL:
        wanted = ".".join(map(str, MINIMUM_KERNEL))
        return f"memory can be mapped from Linux {wanted} on, and this host has {release}"
    if maps.number(status, b"Seccomp"):
        # PTRACE_O_SUSPEND_SECCOMP is for those without a filter.
        return "memory can be mapped only by a process without a seccomp filter, and this has one"
    return ""


def _version(release: str) -> tuple[int, ...]:
    numbers = []
    for part in release.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return (*numbers,)
