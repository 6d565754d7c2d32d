"""What the processes of a container have open and mapped, as far as it matters for a dump.

Only values: :mod:`shim.procfs` reads them from /proc, :mod:`shim.preflight` judges them, and the
tests make them up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shim.external import Sorted
from shim.mounts import Mounted


@dataclass(frozen=True, kw_only=True)
class Socket:
    """An open socket."""

    family: int
    """AF_…"""
    type: int
    """SOCK_…"""
    protocol: int
    state: str = ""
    """TCP state, e.g. ``ESTABLISHED``; empty for other protocols."""
    peer: int = 0
    """Unix: inode of the socket at the other end; 0 when it is not connected."""
    unread: bool = False
    """Netlink: whether messages wait to be read."""
    path: str = ""
    """Unix: the address it is bound to, or the peer's; may be empty."""


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """One open descriptor of a process."""

    number: int
    target: str
    """Of the link in /proc/PID/fd, e.g. ``/dev/null``, ``socket:[7]``, ``anon_inode:[eventfd]``."""
    kind: str
    """``file``, ``dir``, ``char``, ``block``, ``fifo``, ``socket`` or ``other``."""
    device: tuple[int, int] = (0, 0)
    """Major and minor of a device file."""
    inode: int = 0
    size: int = 0
    """Bytes, of a regular file."""
    links: int = 1
    watches: tuple[tuple[int, int], ...] = ()
    """(device, inode) of each file that an inotify or fanotify descriptor watches."""
    socket: Socket | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One process of the container."""

    pid: int
    """As seen from here."""
    inner: int
    """As seen inside the container."""
    parent: int
    """As seen from here."""
    name: str
    state: str = "S"
    """The letter of /proc/PID/stat."""
    tracer: int = 0
    threads: int = 1
    resident: int = 0
    """Bytes."""
    dumpable: int = 0
    """Bytes of memory that a dump writes: anonymous and shared memory that is resident."""
    namespaces: tuple[tuple[str, int], ...] = ()
    """(kind, inode) of each namespace."""
    mappings: tuple[str, ...] = ()
    """Names of the mappings that need a closer look, e.g. ``/SYSV00000000``, ``[uprobes]``."""
    shared_code: str = ""
    """Name of the first executable mapping, if that is shared and not writable."""
    descriptors: tuple[Descriptor, ...] = ()
    cuda: str = ""
    """State of its use of CUDA in the driver's words, e.g. ``running``; empty: it uses none."""
    hides_limits: bool = False
    """Whether the kernel refuses to show its resource limits to us (prlimit(2))."""

    def __str__(self) -> str:
        return f"process {self.inner} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Everything that preflight looks at."""

    init: int
    """First process of the container."""
    tasks: tuple[Task, ...]
    """The processes of its tree: what a dump saves."""
    strangers: tuple[Task, ...] = ()
    """Processes in the container that are not of the tree, e.g. of ``kubectl exec``."""
    namespaces: tuple[tuple[str, str | None], ...] = ()
    """(kind, path) of the OCI spec; ``""`` for one of the container's own, None for the host's."""
    terminal: bool = False
    frozen: bool = False
    """Whether the container is paused already."""
    mounts: Sorted = field(
        default_factory=lambda: Sorted(external=(), submounts=(), unsupported=())
    )
    mqueues: tuple[str, ...] = ()
    """Names of POSIX message queues in /dev/mqueue."""
    root_filesystem: Mounted | None = None
    gpu_problem: str = ""
    """Why the NVIDIA driver cannot be asked about the processes, where the container has a GPU."""
    device_memory: int = 0
    """Bytes of GPU memory, which the driver moves into the processes for a capture."""
    memory_left: int | None = None
    """Bytes that the container's memory limit leaves; None without a limit."""
    criu: str | None = None
    """Version of CRIU, None when it cannot be run."""
    passcred: bool = True
    """Whether the kernel answers SO_PASSCRED on internet sockets: not from Linux 6.16 on."""
    tar: bool = True
    """Whether tar and gzip, which CRIU packs tmpfs with, are on PATH."""
    free: int | None = None
    """Bytes free where the snapshot goes; None when it is not known yet."""
    files: int = 0
    """Bytes of the writable layer, of /dev/shm, and of memory that is mapped from a snapshot."""
