"""Take a restore back, whoever does it: the process that failed, its parent, or a later ``delete``.

Everything is read from the journal and every step may be done twice. The order is the reverse of
the restore's, with one rule above all: nothing is deleted below a folder that still has mounts.
(runc leaves a bind mount of the whole root filesystem, volumes included, in its state folder when
it is killed in the middle, and its own ``delete --force`` would delete through it.)
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress

from shim import cgroups, mounts, overlay, supervise
from shim.errors import Unfit
from shim.journal import Journal

TYPE_CHECKING = False  # type checkers take it for true; see shim/record.py
if TYPE_CHECKING:
    from collections.abc import Callable

_DELETE_TIMEOUT = 30.0
_MOUNT_ROOT_NAME = re.compile(rb"/tmp/\.criu\.mntns\.\w{6}")
"""CRIU: criu/mount.c."""
_LONGEST_NAME = 32  # bytes


def undo(journal: Journal, *, start_follows: bool) -> None:
    """Leave no process, mount, control group or file of the restore.

    ``start_follows`` says that the container will now be started the ordinary way, so its root
    filesystem must be mounted again. Each step is tried; the first error is raised at the end as
    OSError or Unfit, and the container must not be started then.
    """
    problems: list[OSError | Unfit] = []
    steps: list[Callable[[], None]] = [
        lambda: _end_processes(journal),
        lambda: _end_guard(journal),
        lambda: _forget_container(journal),
        lambda: _give_back_config(journal),
        lambda: _give_back_rootfs(journal, start_follows=start_follows),
        lambda: _give_back_shm(journal),
    ]
    for step in steps:
        try:
            step()
        except (OSError, Unfit) as error:
            problems.append(error)
            journal.save()
    if problems:
        raise problems[0]
    journal.remove()


def _end_processes(journal: Journal) -> None:
    if journal.restoring:
        cgroups.kill(journal.cgroups)


def _end_guard(journal: Journal) -> None:
    if not journal.guard:
        return
    from shim import guard  # noqa: PLC0415 - few restores fail

    guard.stop(*journal.guard)
    journal.guard = []
    folder = os.path.dirname(os.path.dirname(journal.path))
    _unlink(f"{folder}/guards/{journal.container}.lock")  # one that is killed leaves it


def _forget_container(journal: Journal) -> None:
    """Unmount what runc mounted, then have it forget the container, then remove the groups."""
    if not journal.restoring:
        return
    state = os.path.join(os.path.realpath(journal.root), journal.container)
    mounts.unmount_all_below(state)
    mounts.unmount_all_below(_rootfs(journal))
    if journal.stub:
        _unlink(journal.stub)
    clean_after_criu(journal)
    if os.path.isdir(state):
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            supervise.run(
                journal.runtime,
                [*journal.global_options, "delete", "--force", journal.container],
                time.monotonic() + _DELETE_TIMEOUT,
                output=null,
            )
        except supervise.DeadlineError:
            raise Unfit(
                f"{journal.runtime} delete did not end within {_DELETE_TIMEOUT:.0f} seconds"
            ) from None
        finally:
            os.close(null)
        if os.path.isdir(state):
            raise Unfit(f"{journal.runtime} delete left the container's state in {state}")
    cgroups.remove(journal.cgroups)
    if journal.pid_file:
        _unlink(journal.pid_file)
    journal.restoring = False


def clean_after_criu(journal: Journal) -> None:
    """Remove CRIU's working folder, but for the log, which goes to the plan. Raises OSError.

    A killed CRIU leaves mounts there, the host's cgroup hierarchies (``.criu.cgyard.XXXXXX``),
    and in /tmp the empty folder in which it puts the container's mounts together, inside a mount
    namespace of its own.
    """
    work = journal.work
    if not os.path.isdir(work):
        return
    mounts.unmount_all_below(work)
    log = os.path.join(work, "restore.log")
    for root in _mount_roots(log):
        with suppress(OSError):  # CRIU has removed it, or it is not empty and so not what is meant
            os.rmdir(root)
    if os.path.exists(log) and os.path.isdir(os.path.dirname(journal.log)):
        os.replace(log, journal.log)
    with os.scandir(work) as listed:
        entries = list(listed)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(work)


def _mount_roots(log: str) -> set[str]:
    """Folders in /tmp that CRIU's log names as the place of the container's mounts."""
    found: set[str] = set()
    try:
        with open(log, "rb") as file:
            rest = b""
            while data := file.read(1 << 20):
                found.update(os.fsdecode(name) for name in _MOUNT_ROOT_NAME.findall(rest + data))
                rest = data[-_LONGEST_NAME:]
    except OSError:
        return set()
    return found


def _give_back_config(journal: Journal) -> None:
    """The bundle's config.json as the request had it."""
    if not journal.config:
        return
    if os.path.exists(journal.config) and os.path.isdir(journal.bundle):
        give_back_config(journal.config, journal.bundle)
    journal.config = ""


def original_config(bundle: str) -> str:
    """Where a bundle's original config.json is kept while another one is in its place.

    In the bundle itself, so that it is given back by a rename, which needs no room on a full disk.
    """
    return os.path.join(bundle, ".config.json.original")


def give_back_config(aside: str, bundle: str) -> None:
    """Put the original config.json back in one step. Raises OSError."""
    os.replace(aside, os.path.join(bundle, "config.json"))
    _unlink(aside)  # still there when both names were the same file


def replace_config(bundle: str, data: bytes, *, keep: str) -> None:
    """Replace a bundle's config.json in one step, keeping owner and mode.

    The old one stays as ``keep``. Raises OSError; the old one is in its place then.
    """
    path = os.path.join(bundle, "config.json")
    status = os.stat(path)
    new = os.path.join(bundle, ".config.json.podthaw")
    fd = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), status.st_mode & 0o7777)
        os.link(path, keep)
        os.replace(new, path)
    except OSError:
        _unlink(new)
        raise


def _give_back_rootfs(journal: Journal, *, start_follows: bool) -> None:
    if journal.rootfs is None:
        return
    overlay.reset(overlay.Layer(**journal.rootfs), mount=start_follows)
    journal.rootfs = None


def _give_back_shm(journal: Journal) -> None:
    if journal.shm is None:
        return
    from shim import shm  # noqa: PLC0415 - few snapshots have any

    shm.take_back(shm.Shared(**journal.shm))
    journal.shm = None


def _rootfs(journal: Journal) -> str:
    return journal.rootfs["target"] if journal.rootfs else journal.rootfs_path


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
