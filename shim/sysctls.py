"""Settings of the namespaces that a container shares with its pod stay the pod's.

CRIU writes the captured pod's limits of IPC, and its domain name, into whatever namespaces it
restores into; other containers of the pod live there too, and the pod's own sysctls were set
there. So the images that hold them are replaced by ones that say what is there already.
Sources: criu/ipc_ns.c, criu/uts_ns.c, images/ipc-var.proto and utsns.proto of CRIU 4.2.
"""

from __future__ import annotations

import os
import re

from shim import spec as oci
from shim.criu import images
from shim.criu.wire import Message
from shim.errors import Broken, Unfit
from shim.namespaces import in_namespace

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

IPC = {
    1: "kernel/sem",
    2: "kernel/msgmax",
    3: "kernel/msgmnb",
    4: "kernel/msgmni",
    5: "kernel/auto_msgmni",
    6: "kernel/shmmax",
    7: "kernel/shmall",
    8: "kernel/shmmni",
    9: "kernel/shm_rmid_forced",
    10: "fs/mqueue/queues_max",
    11: "fs/mqueue/msg_max",
    12: "fs/mqueue/msgsize_max",
    13: "fs/mqueue/msg_default",
    14: "fs/mqueue/msgsize_default",
}
"""Field of ipc_var_entry → sysctl. The ids of the next objects are not settings."""

_DOMAIN = 2  # utsns_entry
_NAMES = {"ipc": re.compile(r"ipcns-var-\d+\.img"), "uts": re.compile(r"utsns-\d+\.img")}


def keep(folder: str, spec: Mapping[str, Any]) -> None:
    """Let the images in ``folder`` say what the namespaces of ``spec`` have.

    Raises Broken (an image is damaged) and Unfit (a namespace or the folder cannot be used).
    """
    readers: dict[str, Callable[[], Callable[[Message], None]]] = {"ipc": _ipc, "uts": _uts}
    for kind, read in readers.items():
        path = oci.namespace_path(spec, kind)
        names = [name for name in sorted(os.listdir(folder)) if _NAMES[kind].fullmatch(name)]
        if not path or not names:
            continue
        try:
            change = in_namespace(path, read)
            for name in names:
                _replace(folder, name, change)
        except OSError as error:
            raise Unfit(
                f"the settings of the pod's {kind} namespace cannot be kept: {error.strerror}"
            ) from error


def rewritten(data: bytes, change: Callable[[Message], None], name: str) -> bytes:
    """An image of one entry with the entry changed. Raises Broken."""
    image = images.decode(data, name)
    if len(image.entries) != 1:
        raise Broken(f"{name} should hold one entry, found {len(image.entries)}")
    message = Message.parse(image.entries[0].message)
    change(message)
    image.entries[0].message = message.encode()
    return images.encode(image)


def _replace(folder: str, name: str, change: Callable[[Message], None]) -> None:
    path, aside = f"{folder}/{name}", f"{folder}/.{name}"
    with open(path, "rb") as file:
        data = file.read()
    new = rewritten(data, change, name)
    if new == data:
        return
    fd = os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(new)
    os.replace(aside, path)


def _ipc() -> Callable[[Message], None]:
    """What this thread's IPC namespace has, as a change of an ipc_var_entry."""
    found = {field: text for field, name in IPC.items() if (text := _sysctl(name)) is not None}

    def change(message: Message) -> None:
        for field, text in found.items():
            if field in message:
                message.set_uints(field, [int(word) for word in text.split()])

    return change


def _uts() -> Callable[[Message], None]:
    """What this thread's UTS namespace has, as a change of a utsns_entry."""
    domain = _sysctl("kernel/domainname")

    def change(message: Message) -> None:
        if domain is not None:
            message.set_bytes(_DOMAIN, domain.encode())

    return change


def _sysctl(name: str) -> str | None:
    try:
        with open(f"/proc/sys/{name}", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None  # this kernel has none of that name
